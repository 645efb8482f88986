"""Loss curves of one small experiment, however the work is divided: what two of them compare."""

import dataclasses
import math
from typing import Any

import jax
import numpy as np

from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.experts import Experts
from jaxseq.parallel.mesh import AXES, MeshConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.program import Program, build_program
from jaxseq.training.state import TrainState

STEPS, ROWS, CONTEXT, VOCABULARY = 20, 16, 16, 32

DENSE = GPTConfig(
    num_layers=4, width=16, num_heads=4, num_kv_heads=2, positions="rotary", norm="rms",
    activation="swiglu", use_bias=False, tie_embeddings=False,
).resolve(vocab_size=VOCABULARY, context=CONTEXT)  # fmt: skip
EXPERTS = dataclasses.replace(DENSE, num_layers=2, experts=Experts(count=8, per_token=2))

WAYS: dict[str, dict[str, Any]] = {
    "1 device": {"mesh": MeshConfig(data=1)},
    "8 data": {"mesh": MeshConfig(data=8)},
    "8 fsdp": {"mesh": MeshConfig(data=1, fsdp=8)},
    "4 fsdp x 2 tensor": {"mesh": MeshConfig(data=1, fsdp=4, tensor=2)},
    "2 data x 2 fsdp x 2 context": {"mesh": MeshConfig(data=2, fsdp=2, context=2)},
    "4 stage x 2 data": {"mesh": MeshConfig(stage=4, data=2)},
    "pmap 8": {"mesh": MeshConfig(data=8), "driver": "pmap"},
    "accumulate 4": {"mesh": MeshConfig(data=2), "accumulate": 4},
    "accumulate 8": {"mesh": MeshConfig(data=1), "accumulate": 8},
    "fsdp 2 x tensor 2 x context 2, accumulate 2": {
        "mesh": MeshConfig(data=1, fsdp=2, tensor=2, context=2), "accumulate": 2,
    },
    "1 device, experts": {"model": EXPERTS, "mesh": MeshConfig(data=1)},
    "8 expert": {"model": EXPERTS, "mesh": MeshConfig(data=1, expert=8)},
    "2 expert x 2 data x 2 tensor": {
        "model": EXPERTS, "mesh": MeshConfig(expert=2, data=2, tensor=2)
    },
}  # fmt: skip


def experiment(name: str) -> Experiment:
    """The experiment of one row of the table."""
    plain = Experiment(
        task=LanguageModel(),
        model=DENSE,
        data=TextData(batch_size=ROWS, context=CONTEXT, separate_documents=True),
        optimizer=Optimizer(learning_rate=1e-2, warmup_steps=2),
        num_steps=STEPS,
    )
    return dataclasses.replace(plain, **WAYS[name])


def program(name: str) -> Program:
    """What it compiles, on as many of this process's view of the devices as it asks for."""
    asked = experiment(name)
    count = math.prod(getattr(asked.mesh, axis) for axis in AXES)
    return build_program(asked, asked.mesh.build(ROWS, jax.devices()[:count]))


def batch(step: int) -> dict[str, np.ndarray]:
    """Packed documents with padding behind them, so that every row has another weight."""
    rng = np.random.default_rng(step)
    tokens = rng.integers(0, VOCABULARY, (ROWS, CONTEXT + 1), np.int32)
    tokens[:, 1::2] = (tokens[:, :-1:2] * 5 + 1) % VOCABULARY  # something to learn
    ends = np.sort(rng.integers(1, CONTEXT + 1, (ROWS, 2)), axis=1)
    place = np.arange(CONTEXT)[None]
    segments = 1 + (place >= ends[:, :1]).astype(np.int32)
    segments = np.where(place < ends[:, 1:], segments, 0)
    first = np.where(segments == 2, ends[:, :1], 0)
    after = np.concatenate([segments[:, 1:], np.zeros((ROWS, 1), np.int32)], axis=1)
    return {
        "inputs": np.where(segments > 0, tokens[:, :-1], 0),
        "targets": tokens[:, 1:],
        "mask": (segments > 0) & (after == segments),
        "segments": segments.astype(np.int32),
        "positions": np.where(segments > 0, place - first, 0).astype(np.int32),
    }


def train(program: Program, state: TrainState, steps: range) -> tuple[TrainState, list[float]]:
    """The state after `steps`, and the loss of each."""
    losses = []
    for step in steps:
        rows = jax.device_put(batch(step), program.layout.batch)
        state, metrics = program.step(state, rows)
        losses.append(float(metrics["loss"]))
    return state, losses
