"""JAX's splash attention kernel for TPUs, on each device's own rows and heads.

XLA cannot divide a Pallas kernel among devices by itself. What is declared here is that rows of
the batch and key/value heads are independent, so that the kernel runs under any sharding of the
two, whatever the mesh, and that nothing else may be divided.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxseq.typing import Array

# The kernel's smallest block; lengths have to be multiples of it.
BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is fixed when the kernel is made; `query_start` is the index of the first query."""

    causal: bool
    window: int | None
    query_start: int
    soft_cap: float | None
    interpret: bool = False


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def splash_attention(
    query: Array, key: Array, value: Array, segments: tuple[Array, ...], kernel: Kernel
) -> Array:
    """Softmax attention of query "B K G T H" to key and value "B K S H", scaled beforehand.

    `segments` is empty, or those of the queries "B T" and of the keys "B S": equal ones see each
    other. The gradient runs the forward kernel once more, whose log-sum-exps JAX does not give out
    together with a gradient.
    """
    return _per_device(_run, kernel, len(segments))(query, key, value, *segments)


def _forward(
    query: Array, key: Array, value: Array, segments: tuple[Array, ...], kernel: Kernel
) -> tuple[Array, tuple]:
    output = splash_attention(query, key, value, segments, kernel)
    return output, (query, key, value, segments)


def _backward(kernel: Kernel, saved: tuple, doutput: Array) -> tuple:
    query, key, value, segments = saved
    pull = _per_device(_pull, kernel, len(segments))
    return *pull(query, key, value, doutput, *segments), None


splash_attention.defvjp(_forward, _backward)


def _run(kernel: Kernel, query: Array, key: Array, value: Array, *segments: Array) -> Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, kv_heads, groups, queries, size = query.shape
    shape = queries, key.shape[2]
    if kernel.window is not None:
        reach = kernel.window - 1
        sides = (reach, 0 if kernel.causal else reach)
        mask = splash.LocalMask(shape, sides, offset=kernel.query_start)
    elif kernel.causal:
        mask = splash.CausalMask(shape, offset=kernel.query_start)
    else:
        mask = splash.FullMask(shape)
    rows, columns = map(_block, shape)
    blocks = splash.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=rows,
        block_kv_dq=columns,
    )
    attend = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * (kv_heads * groups)),
        block_sizes=blocks,
        attn_logits_soft_cap=kernel.soft_cap,
        interpret=kernel.interpret,
    )
    heads = query.reshape(batch, kv_heads * groups, queries, size)
    more = (splash.SegmentIds(*segments),) if segments else ()
    return jax.vmap(attend)(heads, key, value, *more).reshape(query.shape)


def _pull(
    kernel: Kernel, query: Array, key: Array, value: Array, doutput: Array, *segments: Array
) -> tuple[Array, Array, Array]:
    _, pull = jax.vjp(lambda q, k, v: _run(kernel, q, k, v, *segments), query, key, value)
    return pull(doutput)


def _block(length: int) -> int:
    """The largest block up to 512 that divides a length, which is a multiple of BLOCK."""
    return next(size for size in (512, 256, BLOCK) if length % size == 0)


def _per_device(function: Callable[..., Any], kernel: Kernel, num_segments: int) -> Callable:
    """`function` on each device's rows and heads, and under `jax.vmap` on all rows in one."""
    run = jax.jit(partial(function, kernel))  # its constants stay its own
    by_gradient = function is _pull
    queries, keys = "b k g t h", "b k s h"
    operands = [queries, keys, keys, *([queries] if by_gradient else []), "b t", "b s"]
    operands = operands[: 3 + by_gradient + num_segments]
    results = [queries, keys, keys] if by_gradient else [queries]

    def partition(mesh: Mesh, arguments: tuple, _: object) -> tuple:
        spec = arguments[0].sharding.spec if arguments[0].sharding is not None else ()
        rows, heads, *_ = (*spec, None, None)

        def place(axes: str) -> NamedSharding:
            names = [{"b": rows, "k": heads}.get(axis) for axis in axes.split()]
            return NamedSharding(mesh, PartitionSpec(*names))

        placed = tuple(map(place, results))
        return mesh, run, placed if by_gradient else placed[0], tuple(map(place, operands))

    divided = custom_partitioning(run)
    divided.def_partition(
        partition=partition,
        sharding_rule=f"{', '.join(operands)} -> {', '.join(results)}",
        need_replication_factors=("g", "t", "h", "s"),  # in order of appearance
    )
    batched = custom_vmap(lambda *arguments: divided(*arguments))

    @batched.def_vmap
    def _(size: int, is_batched: list[bool], *arguments: Array) -> tuple:
        rows = [
            x if has_axis else jnp.broadcast_to(x[None], (size, *x.shape))
            for x, has_axis in zip(arguments, is_batched, strict=True)
        ]
        merged = batched(*(x.reshape(-1, *x.shape[2:]) for x in rows))
        split = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), merged)
        return split, jax.tree.map(lambda _: True, split)

    return batched
