"""What an experiment costs on given devices, before anything runs on them.

Its training step, its evaluation step and one step of decoding are compiled ahead of time, and
their memory, operations, bytes and collectives read off the compiled programs.
"""

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from jaxseq.data.tokenizers import CharTokenizer
from jaxseq.decoding.cache import init_cache
from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.attention import KVCache
from jaxseq.nn.parameters import flatten
from jaxseq.nn.transformer import BlockCache
from jaxseq.parallel.chips import GIB, Chip, chip_of
from jaxseq.parallel.mesh import Layout
from jaxseq.parallel.rules import targets
from jaxseq.planning.hlo_costs import Costs, program_costs
from jaxseq.planning.roofline import Roofline, roofline
from jaxseq.training.experiment import Experiment
from jaxseq.training.flops import matmul_flops, training_flops
from jaxseq.training.opening import open_run_directory
from jaxseq.training.program import Program, build_program
from jaxseq.typing import PyTree

STEPS = ("train", "evaluation", "decode")


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An experiment completed, and what compiling it needs to know of its data."""

    experiment: Experiment
    tokenizer: Any
    batch: dict[str, jax.ShapeDtypeStruct]
    """The shapes of a training batch."""
    frozen: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device while a step runs."""

    parameters: int
    optimizer: int
    """The rest of the training state: moments, averages, the step."""
    inputs: int
    """The batch, or the cache of keys and values; and what tiles round sizes up to."""
    outputs: int
    """Results that do not take the place of what was given."""
    activations: int
    """All that is made on the way: activations, gradients, gathered parameters."""
    limit: int
    """What the chip has for a program."""

    @property
    def total(self) -> int:
        """Of all that is there at once."""
        return self.parameters + self.optimizer + self.inputs + self.outputs + self.activations

    @property
    def fits(self) -> bool:
        """Whether the chip has as much."""
        return self.total <= self.limit


@dataclasses.dataclass(frozen=True)
class StepPlan:
    """One compiled program."""

    name: str
    tokens: int
    """How many go through it in a run, on all devices."""
    model_flops: int
    """Operations that the model's mathematics asks for, on all devices: see `training/flops.py`."""
    memory: Memory
    compile_seconds: float
    costs: Costs | None
    """None where the compiler gave up, because the memory does not suffice."""
    roofline: Roofline | None

    @property
    def seconds(self) -> float:
        """Of one run at best; infinite where it does not fit."""
        return math.inf if self.roofline is None else self.roofline.seconds


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an experiment costs on the devices of a mesh."""

    mesh: dict[str, int]
    devices: int
    chip: Chip
    parameters: int
    unsharded: float
    """The share of the parameters that is whole on every device."""
    steps: tuple[StepPlan, ...]
    left_out: tuple[str, ...] = ()
    """Steps that could not be planned, and why."""

    @property
    def train(self) -> StepPlan:
        """The training step."""
        return self.steps[0]

    @property
    def fits(self) -> bool:
        """Whether every step does."""
        return all(step.memory.fits and step.costs is not None for step in self.steps)

    def mfu(self, step: StepPlan) -> float:
        """Model FLOPs utilisation: model FLOPs / (seconds x devices x peak FLOP/s of one)."""
        return step.model_flops / (step.seconds * self.devices * self.chip.bf16_flops)


def prepare(experiment: Experiment) -> Prepared:
    """Completes an experiment, without its data where the config says all that it would.

    That is so of text for a language model whose vocabulary size is set. Raises UserError as
    training would.
    """
    experiment.check()
    data, model, finetune = experiment.data, experiment.model, experiment.finetune
    sized = bool(getattr(model, "vocab_size", 0))
    if sized and hasattr(data, "blank_batch") and finetune.from_run is None:
        tokenizer, batch = _any_tokenizer(model.vocab_size), data.blank_batch()
        model = experiment.task.resolve(model, data, tokenizer)
        experiment = dataclasses.replace(experiment, model=model)
        frozen: frozenset[str] = frozenset()
    else:
        with tempfile.TemporaryDirectory() as folder:  # nothing is written into it
            opened = open_run_directory(experiment, Path(folder))
        experiment, frozen, tokenizer = opened.experiment, opened.frozen, opened.corpus.tokenizer
        batch = experiment.data.train_batches(opened.corpus, experiment.seed)[0]
    # pmap compiles for devices that are there alone; what it computes is the same.
    experiment = dataclasses.replace(experiment, driver="jit")
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    return Prepared(experiment, tokenizer, shapes, frozen)


def make_plan(prepared: Prepared, layout: Layout, steps: Iterable[str] = STEPS) -> Plan:
    """Compiles the named steps for the devices of `layout`; the training step is always there.

    Raises UserError where experiment and mesh do not fit each other.
    """
    program = build_program(prepared.experiment, layout, prepared.frozen)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout.batch)
        for name, leaf in prepared.batch.items()
    }
    tokens = max(math.prod(leaf.shape[:2]) for leaf in batch.values())
    planned, left_out = [_plan_training(prepared, program, batch, tokens)], []
    if "evaluation" in steps:
        planned.append(_plan_evaluation(prepared, program, batch, tokens))
    if "decode" in steps:
        if isinstance(prepared.experiment.model, GPTConfig):
            planned.append(_plan_decoding(prepared.experiment.model, program))
        else:
            kind = type(prepared.experiment.model).__name__
            left_out.append(f"decode: {kind} has no cache of keys and values")
    return Plan(
        mesh=dict(layout.mesh.shape),
        devices=layout.mesh.size,
        chip=chip_of(layout.mesh.devices.flat[0]),
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.like.params)),
        unsharded=program.unsharded()[0],
        steps=tuple(planned),
        left_out=tuple(left_out),
    )


# ---- the three steps ----------------------------------------------------------------------------


def _plan_training(prepared: Prepared, program: Program, batch: PyTree, tokens: int) -> StepPlan:
    state, experiment = program.like, prepared.experiment
    model_flops = training_flops(
        experiment.task, experiment.model, state.params, batch, prepared.frozen
    )
    return _compiled(
        "train",
        program.layout,
        lambda: program.train_step.lower(state, batch),
        tokens=tokens,
        model_flops=model_flops,
        parameters=state.params,
        optimizer=(state.step, state.opt_state, state.average),
        inputs=batch,
    )


def _plan_evaluation(prepared: Prepared, program: Program, batch: PyTree, tokens: int) -> StepPlan:
    experiment, params = prepared.experiment, program.like.served()
    evaluator = experiment.task.evaluator(experiment.model, prepared.tokenizer)
    # Without a gradient: as if every parameter stayed.
    model_flops = training_flops(
        experiment.task, experiment.model, params, batch, flatten(params).keys()
    )
    return _compiled(
        "evaluation",
        program.layout,
        lambda: jax.jit(evaluator).lower(params, batch),
        tokens=tokens,
        model_flops=model_flops,
        parameters=params,
        optimizer=(),
        inputs=batch,
    )


def _plan_decoding(model: GPTConfig, program: Program) -> StepPlan:
    """One token for one row on each part of the devices that has rows, the cache being full."""
    layout, params = program.layout, program.like.served()
    rows, module = layout.row_shards, model.build()

    def decode(params: PyTree, held: tuple, tokens: Any) -> tuple[Any, tuple]:
        length = jnp.int32(model.context - 1)
        cache = BlockCache(KVCache(*held))
        found = module.apply({"params": params}, tokens, cache, length, method="decode")
        logits, cache = cast(tuple, found)  # apply is typed for modules that return anything
        return logits[:, -1].argmax(-1), (cache.own.key, cache.own.value)

    heads = targets("heads", layout.rules)
    ways = math.prod(layout.mesh.shape[axis] for axis in heads)
    divided = (heads or None) if model.num_kv_heads % ways == 0 else None
    place = NamedSharding(
        layout.mesh, PartitionSpec(None, targets("batch", layout.rules), None, divided)
    )
    arrays = jax.eval_shape(lambda: jax.tree.leaves(init_cache(model, rows)))
    held = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place) for leaf in arrays)
    tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=layout.batch)
    return _compiled(
        "decode",
        layout,
        lambda: jax.jit(decode, donate_argnums=1).lower(params, held, tokens),
        tokens=rows,
        model_flops=matmul_flops(decode, params, held, tokens),
        parameters=params,
        optimizer=(),
        inputs=(held, tokens),
    )


def _compiled(
    name: str,
    layout: Layout,
    lower: Callable[[], Any],
    *,
    tokens: int,
    model_flops: int,
    parameters: PyTree,
    optimizer: PyTree,
    inputs: PyTree,
) -> StepPlan:
    begin = time.perf_counter()
    with layout.use():
        lowered = lower()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            compiled, temporaries = None, _out_of_memory(error)
    seconds = time.perf_counter() - begin
    chip = chip_of(layout.mesh.devices.flat[0])
    given = [shard_bytes(tree) for tree in (parameters, optimizer, inputs)]
    if compiled is None:
        memory = Memory(*given, outputs=0, activations=temporaries, limit=chip.memory_bytes)
        return StepPlan(name, tokens, model_flops, memory, seconds, None, None)
    sizes = compiled.memory_analysis()
    # An argument that a program has no use for is not among its own.
    parameters = min(given[0], sizes.argument_size_in_bytes)
    optimizer = min(given[1], sizes.argument_size_in_bytes - parameters)
    memory = Memory(
        parameters=parameters,
        optimizer=optimizer,
        inputs=sizes.argument_size_in_bytes - parameters - optimizer,
        outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
        activations=sizes.temp_size_in_bytes,
        limit=chip.memory_bytes,
    )
    costs = program_costs(compiled.as_text())
    found = roofline(costs, layout.mesh, chip)
    return StepPlan(name, tokens, model_flops, memory, seconds, costs, found)


def shard_bytes(tree: PyTree) -> int:
    """Bytes of the parts of arrays that one device holds; leaves are shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _out_of_memory(error: jax.errors.JaxRuntimeError) -> int:
    """The bytes of temporaries that a compiler gave up over; other errors are raised again."""
    text = str(error)
    found = re.search(r"temporaries \(([\d.]+)([KMG])\)|Used ([\d.]+)([KMG]) of", text)
    if "RESOURCE_EXHAUSTED" not in text or found is None:
        raise error
    amount, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(amount) * {"K": 2**10, "M": 2**20, "G": GIB}[unit])


def _any_tokenizer(vocab_size: int) -> CharTokenizer:
    """One of so many tokens: a model's shapes depend on nothing else of it."""
    return CharTokenizer("".join(chr(0x10000 + i) for i in range(vocab_size - 1)))
