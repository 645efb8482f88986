"""Plans of a small model: on the eight devices of the tests, and for a slice of TPUs."""

import dataclasses
import importlib.util
import json
import math

import jax
import pytest

from jaxseq.data.corpus import TextData
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.parallel import chips
from jaxseq.parallel.chips import GIB, Chip
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.parallel.topologies import topology_devices
from jaxseq.planning import mends, search
from jaxseq.planning import plan as planning
from jaxseq.planning.plan import make_plan, prepare
from jaxseq.planning.report import mend_line, plan_lines, plan_tree, search_lines
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.program import build_program

EXPERIMENT = Experiment(
    task=LanguageModel(),
    model=GPTConfig(vocab_size=64, num_layers=2, num_heads=2, width=32, tie_embeddings=False),
    data=TextData(context=32, batch_size=16, separate_documents=True),
    mesh=MeshConfig(data=2, fsdp=2, tensor=2),
)

CHIP = Chip("chip", 1e12, GIB, 1e11, 1e10, 1e9)


@pytest.fixture(scope="module")
def chip():
    """Makes the devices chips of which nothing has to be measured, with changes."""
    with pytest.MonkeyPatch.context() as patch:

        def use(**changes):
            found = dataclasses.replace(CHIP, **changes)
            patch.setattr(chips, "_measured", lambda device: found)

        use()
        yield use


@pytest.fixture(scope="module")
def plan(chip):
    """Of all three steps, with room enough."""
    return make_plan(prepare(EXPERIMENT), layout(EXPERIMENT))


def layout(experiment, devices=None):
    return experiment.mesh.build(experiment.data.batch_size, devices)


def test_without_data_the_shapes_are_those_with_data(tmp_path):
    (tmp_path / "text.txt").write_text("ab" * 2000)
    data = dataclasses.replace(EXPERIMENT.data, path=tmp_path / "text.txt")
    # A vocabulary of 0 has to be looked up in the data.
    model = dataclasses.replace(EXPERIMENT.model, vocab_size=0)
    read = prepare(dataclasses.replace(EXPERIMENT, model=model, data=data))
    blank = prepare(EXPERIMENT)
    assert read.batch == blank.batch
    assert read.experiment.model.vocab_size == 3
    assert blank.experiment.model.context == 32


def test_figures_of_every_step(plan):
    train, evaluation, decode = plan.steps
    assert plan.fits
    assert plan.parameters == 32 * (64 + 32 + 64) + 2 * 12_704 + 64

    # Two moments a parameter, and counters; on each device its share.
    assert train.memory.optimizer == pytest.approx(2 * train.memory.parameters, rel=0.01)
    assert train.memory.parameters < 0.3 * 4 * plan.parameters
    assert evaluation.memory.parameters == train.memory.parameters
    # Keys and values of 2 layers: 1 row a device, 32 positions, 1 of 2 heads of size 16.
    assert decode.memory.inputs == pytest.approx(2 * 2 * 32 * 16 * 4, rel=0.05)

    # The model is whole on the 8 devices together; some products are made on both sides of tensor.
    assert train.model_flops == 3 * evaluation.model_flops
    assert 1.0 <= 8 * train.costs.flops / train.model_flops < 1.1
    assert train.tokens == 16 * 32
    assert decode.tokens == 4
    assert {"fsdp", "tensor"} <= {axis for x in train.roofline.exchanges for axis in x.axes}
    assert 0 < plan.mfu(train) < 1


def test_memory_is_what_the_compiler_says_of_the_program_of_training(plan):
    prepared, where = prepare(EXPERIMENT), layout(EXPERIMENT)
    program = build_program(prepared.experiment, where)
    batch = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where.batch)
        for name, leaf in prepared.batch.items()
    }
    with where.use():
        sizes = program.train_step.lower(program.like, batch).compile().memory_analysis()
    assert plan.train.memory.total == (
        sizes.argument_size_in_bytes
        + sizes.output_size_in_bytes
        + sizes.temp_size_in_bytes
        - sizes.alias_size_in_bytes
    )


def test_a_compiler_out_of_memory_says_by_how_much():
    def error(text):
        return jax.errors.JaxRuntimeError(text)

    tpu = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (600.50G) exceeds available HBM (15.75G)."
    )
    assert planning._out_of_memory(error(tpu)) == int(600.5 * GIB)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        planning._out_of_memory(error("INTERNAL: something else"))


@pytest.fixture
def arithmetic(plan, monkeypatch):
    """In place of compiling: a plan whose activations follow the options as they should."""

    def stand_in(prepared, layout, steps):
        assert steps == ("train",)
        experiment, memory = prepared.experiment, plan.train.memory
        share = 1 / experiment.accumulate / layout.mesh.shape["fsdp"]
        share *= 0.9 if experiment.model.remat == "full" else 1.0
        memory = dataclasses.replace(
            memory,
            activations=int(share * memory.activations),
            limit=chips.chip_of(jax.devices()[0]).memory_bytes,
        )
        seconds = dataclasses.replace(plan.train.roofline, compute=float(layout.mesh.size) / share)
        train = dataclasses.replace(plan.train, memory=memory, roofline=seconds)
        return dataclasses.replace(plan, mesh=dict(layout.mesh.shape), steps=(train,))

    for module in (mends, search):
        monkeypatch.setattr(module, "make_plan", stand_in)
    return stand_in


def test_what_would_make_it_fit(plan, chip, arithmetic):
    memory = plan.train.memory
    experiment = dataclasses.replace(EXPERIMENT, mesh=MeshConfig(data=8))
    # Room for the state and for a third of the activations.
    chip(memory_bytes=memory.total - memory.activations + memory.activations // 3)
    prepared = prepare(experiment)
    too_large = arithmetic(prepared, layout(experiment), ("train",))
    assert "train: does not fit" in "\n".join(plan_lines(too_large))
    lines = [mend_line(mend) for mend in mends.mends(prepared, jax.devices(), too_large)]
    assert lines[0].startswith("--model.remat full: ")
    assert lines[0].endswith("does not fit either")
    # 3 times too much is mended by 4 parts, but a device has 2 rows: not by these.
    assert not any("--accumulate" in line for line in lines)
    assert any(line.startswith("--mesh.fsdp") and line.endswith("a chip, fits") for line in lines)

    chip(memory_bytes=memory.total - memory.activations + int(0.6 * memory.activations))
    too_large = arithmetic(prepared, layout(experiment), ("train",))
    lines = [mend_line(mend) for mend in mends.mends(prepared, jax.devices(), too_large)]
    assert any(line.startswith("--accumulate 2: ") and line.endswith("fits") for line in lines)


def test_search_ranks_the_meshes_that_fit(chip, arithmetic):
    chip()
    prepared = prepare(EXPERIMENT)
    tried = list(search.meshes(prepared.experiment, 8))
    assert len(tried) == math.comb(3 + 3, 3)  # 2^3 over data, fsdp, tensor and context
    ranked = search.rank(prepared, tried, jax.devices())
    # 2 heads are not divided by 4.
    assert {candidate.mesh.tensor for candidate in ranked} == {1, 2}
    seconds = [candidate.seconds for candidate in ranked]
    assert seconds == sorted(seconds)
    said = []
    found = search.search(prepared, jax.devices(), 3, said.append)
    assert len(said) == 3
    assert said[0].startswith("compiling for --mesh.")
    assert (found.tried, len(found.compiled)) == (len(tried), 3)
    times = [each.train.seconds for _, each in found.compiled]
    assert times == sorted(times)
    text = "\n".join(search_lines(found, GIB))
    assert f"{len(tried)} meshes, {len(ranked)} of which fit" in text

    chip(memory_bytes=1000)
    with pytest.raises(UserError, match=r"none of the 20 meshes of 8 devices fits"):
        search.search(prepared, jax.devices(), 1, said.append)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
def test_for_a_slice_of_tpus_that_is_not_here():
    experiment = dataclasses.replace(
        EXPERIMENT,
        model=dataclasses.replace(EXPERIMENT.model, dtype="bfloat16"),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )
    where = layout(experiment, topology_devices("v5e:2x4"))
    plan = make_plan(prepare(experiment), where)
    assert plan.chip.name == "TPU v5e"
    assert plan.fits
    assert {"fsdp", "tensor"} <= {x for e in plan.train.roofline.exchanges for x in e.axes}
    assert 0.9 < 8 * plan.train.costs.flops / plan.train.model_flops < 1.1
    tree = json.loads(json.dumps(plan_tree(plan)))
    assert tree["steps"]["train"]["memory_bytes"]["limit"] == int(15.75 * GIB)
