"""Compile time of the train step by depth: scanned layers should make it independent of depth.

    python scripts/bench_compile.py

Each depth is lowered and compiled from scratch, in turns; ratio = its seconds / the first depth's
in the same round.
"""

import time
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import TrainState
from jaxseq.training.step import make_train_step
from jaxseq.typing import Array, PyTree


def bench_compile(
    depths: tuple[int, ...] = (4, 48),
    width: int = 128,
    num_heads: int = 4,
    context: int = 64,
    batch_size: int = 12,
    unroll_layers: int = 1,
    rounds: int = 5,
) -> None:
    """Times lowering and compilation of the step that `jaxseq train` runs.

    Args:
        depths: Numbers of layers.
        width: Size of the residual stream.
        num_heads: Attention heads.
        context: Tokens in a row.
        batch_size: Rows in a batch.
        unroll_layers: Blocks laid out per loop iteration; 1 is a plain scan.
        rounds: How often each depth is compiled.
    """
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, unroll_layers {unroll_layers}")
    tokens = jax.ShapeDtypeStruct((batch_size, context), jnp.int32)
    batch = {"inputs": tokens, "targets": tokens, "mask": tokens.update(dtype=jnp.bool_)}
    rows = []
    for _ in range(rounds):
        row = []
        for depth in depths:
            config = GPTConfig(65, context, depth, width, num_heads, unroll_layers=unroll_layers)
            row.append(compile_seconds(config.resolve(vocab_size=65, context=context), batch))
        rows.append(row)
    for depth, (lower, build) in zip(depths, np.moveaxis(np.array(rows), 0, -1), strict=True):
        both, first = lower + build, np.sum(np.array(rows)[:, 0], axis=-1)
        low, middle, high = np.percentile(both / first, (25, 50, 75))
        print(
            f"  {depth:3d} layers: lower {np.median(lower):6.2f} s, compile {np.median(build):6.2f}"
            f" s, ratio {middle:.2f} [{low:.2f}, {high:.2f}]"
        )


def compile_seconds(config: GPTConfig, batch: PyTree) -> tuple[float, float]:
    """Seconds to trace and lower the step, and seconds to compile it; nothing is cached."""
    task, optimizer, num_steps = LanguageModel(), Optimizer(), 2000
    chain = optimizer.build(num_steps)

    def create(key: Array) -> TrainState:
        params = nn.unbox(task.init(config, key))
        return TrainState(jnp.zeros((), jnp.int32), params, chain.init(params))

    key = jax.random.key(0)
    rates = optimizer.learning_rates(num_steps)
    step = make_train_step(partial(task.loss, config), chain, rates, key)
    state = jax.eval_shape(create, key)
    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch)
    middle = time.perf_counter()
    lowered.compile()
    return middle - start, time.perf_counter() - middle


if __name__ == "__main__":
    tyro.cli(bench_compile)
