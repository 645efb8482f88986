"""JAX's splash attention kernel for TPUs, on each device's own rows and heads.

XLA cannot divide a Pallas kernel among devices, so that it is divided here, over the mesh that
`jax.set_mesh` put around the tracing. Rows of the batch and key/value heads are independent: each
device works on its own, and nothing is sent between them.
"""

import dataclasses
from functools import partial

import jax
from jax.sharding import PartitionSpec

from jaxseq.parallel.rules import mesh_axes
from jaxseq.typing import Array

# The kernel's smallest block; lengths have to be multiples of it.
BLOCK = 128

# Of which it takes multiples as the size of a head.
HEAD = 128


@dataclasses.dataclass(frozen=True)
class Kernel:
    """What is fixed when the kernel is made; `query_start` is the index of the first query."""

    causal: bool
    window: int | None
    query_start: int
    soft_cap: float | None
    interpret: bool = False


def splash_attention(
    query: Array, key: Array, value: Array, segments: tuple[Array, ...], kernel: Kernel
) -> Array:
    """Softmax attention of query "B K G T H" to key and value "B K S H", scaled beforehand.

    `segments` is empty, or those of the queries "B T" and of the keys "B S": equal ones see each
    other. Rows or heads that their mesh axes do not divide evenly are computed on every device.
    """
    run = partial(_run, kernel)
    mesh = jax.sharding.get_abstract_mesh()
    free = set(mesh.axis_names) - set(mesh.manual_axes)  # a caller's own shard_map has the others
    if not free:
        return run(query, key, value, segments)
    rows, heads = mesh_axes("batch", query.shape[0]), mesh_axes("heads", query.shape[1])
    arrays = PartitionSpec(rows, heads)
    return jax.shard_map(
        run,
        in_specs=(arrays, arrays, arrays, PartitionSpec(rows)),
        out_specs=arrays,
        axis_names=free,
        check_vma=False,  # the kernel does not say over which axes its results vary
    )(query, key, value, segments)


def _run(
    kernel: Kernel, query: Array, key: Array, value: Array, segments: tuple[Array, ...]
) -> Array:
    """The kernel on one device."""
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


def _block(length: int) -> int:
    """The largest block up to 512 that divides a length, which is a multiple of BLOCK."""
    return next(size for size in (512, 256, BLOCK) if length % size == 0)
