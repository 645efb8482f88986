"""Training speed beside PyTorch: same weights, same batch, same optimizer, AdamW with clipping.

    pip install -e ".[bench]" && python scripts/bench_train.py --config laptop

First both sides compute loss and gradient norm from the same weights in float32, which must agree
to 1e-5; then whole training steps are timed in turns, compilation not. Each side has a process of
its own, idle while the other runs, so that neither's threads and allocator settings touch the
other. PyTorch runs in its four modes (eager and torch.compile, float32 and bfloat16 autocast),
with scaled_dot_product_attention and fused AdamW. ratio = the seconds of PyTorch's best mode / this
mode's, in the same round: above 1 is faster than the best of PyTorch.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import numpy as np
import tyro
from bench import Side, machine, spread

Arrays = dict[str, np.ndarray]
Step = Callable[[], Any]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Config:
    """One shape of model and batch."""

    num_layers: int
    width: int
    num_heads: int
    vocab_size: int
    context: int
    batch_size: int
    steps_per_round: int
    unroll_layers: int = 0


CONFIGS = {
    "laptop": Config(4, 128, 4, 65, 64, 12, steps_per_round=20),
    "medium": Config(6, 384, 6, 65, 256, 16, steps_per_round=1),
}


def bench_train(
    config: Literal["laptop", "medium"] = "laptop",
    rounds: int = 11,
    steps_per_round: int | None = None,
    unroll_layers: int | None = None,
    seed: int = 0,
) -> None:
    """Times training steps of jaxseq beside PyTorch.

    Args:
        config: Shape of model and batch.
        rounds: How often every mode is timed.
        steps_per_round: Steps each time; by default as many as make a useful measurement.
        unroll_layers: Our blocks laid out per loop iteration; by default all, as in PyTorch.
        seed: Seed of weights and tokens.
    """
    shape = CONFIGS[config]
    shape = dataclasses.replace(
        shape,
        steps_per_round=steps_per_round or shape.steps_per_round,
        unroll_layers=unroll_layers or shape.num_layers,
    )
    print(machine("jax", "flax", "torch"))
    print(f"{config}: {shape}")
    draw = np.random.default_rng(seed).integers
    batch = draw(0, shape.vocab_size, (2, shape.batch_size, shape.context), dtype=np.int32)

    ours, theirs = Side(jaxseq_side, shape), Side(torch_side, shape)
    weights = ours.ask("weights", seed)
    checks = [side.ask("check", weights, batch) for side in (ours, theirs)]
    (loss, norm), (their_loss, their_norm) = checks
    print(f"loss {loss:.7f} and {their_loss:.7f}, gradient norm {norm:.7f} and {their_norm:.7f}")
    if not np.allclose(*checks, rtol=1e-5, atol=0):
        raise SystemExit("the two sides compute different things; nothing is timed")

    sides = {mode: side for side in (theirs, ours) for mode in side.ask("modes", weights, batch)}
    seconds = {mode: [] for mode in sides}
    for _ in range(rounds):
        for mode, side in sides.items():
            seconds[mode].append(side.ask("time", mode, shape.steps_per_round))
    for side in (ours, theirs):
        side.close()
    report(shape, {mode: np.array(taken) for mode, taken in seconds.items()})


def report(shape: Config, seconds: dict[str, np.ndarray]) -> None:
    """Prints a line for each mode: median, quartiles, tokens/s, ratio to PyTorch's best."""
    best = min((s for mode, s in seconds.items() if "torch" in mode), key=np.median)
    for mode, taken in seconds.items():
        speed = shape.batch_size * shape.context / np.median(taken)
        print(
            f"  {mode:24s} {spread(taken, 1e3)} ms {speed:8.0f} tokens/s"
            f"   ratio {spread(best / taken)}"
        )
    exact = {mode: taken for mode, taken in seconds.items() if "float32" in mode}
    best = min((taken for mode, taken in exact.items() if "torch" in mode), key=np.median)
    print(f"  float32 against PyTorch's best float32: {spread(best / exact['jaxseq float32'])}")


def answer(connection: Connection, functions: dict[str, Callable], modes: dict[str, Step]) -> None:
    """Serves a Side: calls the function that a question names, or times steps of a mode."""

    def measure(mode: str, steps: int) -> float:
        float(modes[mode]())  # waits for it: ours returns before the step is done
        start = time.perf_counter()
        for _ in range(steps):
            last = modes[mode]()
        float(last)
        return (time.perf_counter() - start) / steps

    functions = {**functions, "time": measure}
    while question := connection.recv():
        name, *arguments = question
        connection.send(functions[name](*arguments))


def jaxseq_side(connection: Connection, shape: Config) -> None:
    """Ours: the step that `jaxseq train` runs."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    from jaxseq.models.gpt import GPTConfig
    from jaxseq.parallel.host_memory import keep_freed_memory
    from jaxseq.tasks.language_model import LanguageModel
    from jaxseq.training.optimizers import Optimizer
    from jaxseq.training.state import TrainState
    from jaxseq.training.step import make_train_step

    keep_freed_memory()
    task, optimizer, steps = LanguageModel(), Optimizer(), {}

    def model(dtype: Dtype) -> GPTConfig:
        return GPTConfig(
            shape.vocab_size,
            shape.context,
            shape.num_layers,
            shape.width,
            shape.num_heads,
            dtype=dtype,
            unroll_layers=shape.unroll_layers,
        ).resolve(vocab_size=shape.vocab_size, context=shape.context)

    def fields(batch: np.ndarray) -> dict[str, jax.Array]:
        inputs, targets = jnp.asarray(batch)
        return {"inputs": inputs, "targets": targets, "mask": jnp.ones(inputs.shape, bool)}

    def weights(seed: int) -> Arrays:
        return jax.tree.map(np.asarray, nn.unbox(task.init(model("float32"), jax.random.key(seed))))

    def check(params: Arrays, batch: np.ndarray) -> tuple[float, float]:
        @jax.jit
        @jax.value_and_grad
        def loss(params: Arrays) -> jax.Array:
            total, weight = task.loss(model("float32"), params, fields(batch))
            return total / weight

        value, gradient = loss(params)
        return float(value), float(optax.tree.norm(gradient))

    def start(params: Arrays, batch: np.ndarray) -> list[str]:
        for dtype in ("float32", "bfloat16"):
            steps[f"jaxseq {dtype}"] = make_mode(dtype, params, fields(batch))
        return list(steps)

    def make_mode(dtype: Dtype, params: Arrays, batch: dict[str, jax.Array]) -> Step:
        num_steps = 100_000
        chain = optimizer.build(num_steps)

        def loss(params, batch, dropout_key):
            return task.loss(model(dtype), params, batch)

        step = make_train_step(loss, chain, optimizer.learning_rates(num_steps), jax.random.key(0))
        step = jax.jit(step, donate_argnums=0)
        params = jax.tree.map(jnp.array, params)
        state = TrainState(jnp.zeros((), jnp.int32), params, chain.init(params))

        def run() -> jax.Array:
            nonlocal state
            state, metrics = step(state, batch)
            return metrics["loss"]

        run()
        return run

    answer(connection, {"weights": weights, "check": check, "modes": start}, steps)


def torch_side(connection: Connection, shape: Config) -> None:
    """PyTorch: nanoGPT's model and step."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    width, steps = shape.width, {}

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            heads = (*x.shape[:2], shape.num_heads, width // shape.num_heads)
            q, k, v = (y.view(heads).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, -1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.output(y.transpose(1, 2).reshape(x.shape))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(shape.vocab_size, width)
            self.positions = nn.Embedding(shape.context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(shape.num_layers))
            self.norm = nn.LayerNorm(width)

        def forward(self, inputs, targets):
            x = self.tokens(inputs) + self.positions.weight
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def load(params: dict) -> GPT:
        model = GPT()
        model.load_state_dict({name: torch.tensor(x) for name, x in to_torch(params).items()})
        return model

    def tokens(batch: np.ndarray) -> tuple:
        return tuple(torch.tensor(batch).long())

    def check(params: dict, batch: np.ndarray) -> tuple[float, float]:
        model = load(params)
        loss = model(*tokens(batch))
        loss.backward()
        norms = [p.grad.norm() for p in model.parameters()]
        return float(loss.detach()), float(torch.stack(norms).norm())

    def start(params: dict, batch: np.ndarray) -> list[str]:
        for dtype in ("float32", "bfloat16"):
            for compiled in (False, True):
                name = f"torch {'compile' if compiled else 'eager'} {dtype}"
                steps[name] = make_mode(load(params), tokens(batch), dtype, compiled)
        return list(steps)

    def make_mode(model: GPT, batch: tuple, dtype: str, compiled: bool) -> Step:
        rates = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
        optimizer = torch.optim.AdamW(model.parameters(), fused=True, **rates)
        forward = torch.compile(model) if compiled else model

        def run() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = forward(*batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.detach()

        run()
        return run

    answer(connection, {"check": check, "modes": start}, steps)


def to_torch(params: dict) -> Arrays:
    """Our parameters under the names of `torch_side`: a kernel is a Linear's weight transposed."""

    def linear(name: str, layer: dict) -> Arrays:
        return {f"{name}.weight": layer["kernel"].T, f"{name}.bias": layer["bias"]}

    def norm(name: str, layer: dict) -> Arrays:
        return {f"{name}.weight": layer["scale"], f"{name}.bias": layer["bias"]}

    def at(tree: dict, i: int) -> dict:
        return {k: at(v, i) if isinstance(v, dict) else v[i] for k, v in tree.items()}

    out = {
        "tokens.weight": params["embedding"]["table"],
        "positions.weight": params["position_embedding"]["table"],
        **norm("norm", params["final_norm"]),
    }
    for i in range(len(params["blocks"]["mlp_norm"]["scale"])):
        block = at(params["blocks"], i)
        attention, mlp = block["attention"], block["mlp"]
        parts = [attention[name] for name in ("query", "key", "value")]
        qkv = {x: np.concatenate([part[x] for part in parts], -1) for x in ("kernel", "bias")}
        out |= norm(f"blocks.{i}.norm1", block["attention_norm"])
        out |= norm(f"blocks.{i}.norm2", block["mlp_norm"])
        out |= linear(f"blocks.{i}.qkv", qkv)
        out |= linear(f"blocks.{i}.output", attention["out"])
        out |= linear(f"blocks.{i}.up", mlp["in"])
        out |= linear(f"blocks.{i}.down", mlp["out"])
    return out


if __name__ == "__main__":
    tyro.cli(bench_train)
