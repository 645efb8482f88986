"""Low-rank adapters: what they compute, that nothing else moves, and what they save."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, check_parity
from jax.sharding import PartitionSpec as P

from jaxseq.decoding.generate import generate
from jaxseq.decoding.sampling import SamplingConfig
from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.nn.experts import Experts
from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import flatten
from jaxseq.parallel.mesh import MeshConfig, one_device
from jaxseq.reference.linear import adapted_linear
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.finetune import FineTune, frozen_parameters, initializer
from jaxseq.training.lora import is_adapter, merge, named_layers
from jaxseq.training.optimizers import Optimizer
from jaxseq.training.state import abstract_state, create_state, split
from jaxseq.training.step import make_train_step

TASK = LanguageModel()
MODEL = GPTConfig(num_layers=2, width=8, num_heads=2).resolve(vocab_size=32, context=8)
ADAPTED = FineTune(from_run=Path("base"), lora_rank=2, lora_alpha=8.0, lora_targets=("*",))
INIT = initializer(TASK, MODEL, ADAPTED)
TOKENS = np.random.default_rng(0).integers(0, 32, (8, 9), np.int32)
BATCH = {"inputs": TOKENS[:, :-1], "targets": TOKENS[:, 1:], "mask": np.ones((8, 8), bool)}


def frozen(init=INIT, finetune=ADAPTED):
    return frozen_parameters(finetune, flatten(jax.eval_shape(init, jax.random.key(0))), ())


@pytest.fixture(scope="module")
def params():
    """Parameters whose adapters do something: those at the start do nothing."""
    state = create_state(INIT, Optimizer().build(1), one_device(), jax.random.key(0))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        up = path[-1].key == "lora_up"
        return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32) * 0.1 if up else leaf

    return state.params, jax.tree_util.tree_map_with_path(draw, state.params)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapted_layer_equals_its_twin(dtype):
    rng = np.random.default_rng(2)
    shapes = {"kernel": (6, 5), "bias": (5,), "lora_down": (6, 2), "lora_up": (2, 5)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    layer = Linear(5, ("embed", "mlp"))
    check_parity(
        lambda params, x: layer.apply({"params": params}, x),
        lambda params, x: adapted_linear(x, **params | {"lora_scale": float(params["lora_scale"])}),
        params | {"lora_scale": np.asarray(0.75)},
        rng.normal(size=(2, 3, 6)),
        dtype=dtype,
    )


def logits(params):
    return MODEL.build().apply({"params": params}, jnp.asarray(BATCH["inputs"]))


def test_merged_is_unmerged_and_fresh_adapters_change_nothing(params):
    fresh, trained = params
    apply = jax.jit(logits)
    plain = jax.tree.map(jnp.asarray, merge(fresh))
    assert not any(map(is_adapter, flatten(plain)))
    assert flatten(plain).keys() == {p for p in flatten(fresh) if not is_adapter(p)}
    np.testing.assert_array_equal(apply(fresh), jax.jit(logits)(plain))
    np.testing.assert_allclose(apply(trained), jax.jit(logits)(merge(trained)), rtol=0, atol=1e-6)
    assert np.abs(apply(trained) - apply(fresh)).max() > 1e-2


def test_the_base_is_drawn_as_without_adapters(params):
    init = partial(TASK.init, MODEL)
    plain = create_state(init, Optimizer().build(1), one_device(), jax.random.key(0)).params
    jax.tree.map(np.testing.assert_array_equal, merge(params[0]), plain)
    scales = {path: leaf for path, leaf in flatten(params[0]).items() if path.endswith("_scale")}
    assert {path.split("/")[-2] for path in scales} == {"query", "key", "value", "out", "in"}
    for scale in scales.values():
        np.testing.assert_array_equal(scale, [4.0, 4.0])


def test_decoding_uses_them_too(params):
    prompt = jnp.asarray(TOKENS[:2, :3])
    greedy = {"max_new_tokens": 4, "sampling": SamplingConfig(temperature=0.0)}
    key = jax.random.key(0)
    written, merged, plain = (
        np.asarray(generate(MODEL.build(), each, prompt, key=key, **greedy))
        for each in (params[1], merge(params[1]), params[0])
    )
    np.testing.assert_array_equal(written, merged)
    assert (written != plain).any()


def averages(state):
    """{path of a parameter: the arrays that the optimizer keeps of it}."""
    kept = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state):
        names = [str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey)]
        if len(names) > 1:  # those of counters are none, or the part of Muon that counts
            kept.setdefault("/".join(names), []).append(leaf)
    return kept


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizer_state_is_kept_for_adapters_alone_and_lies_beside_them(name):
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build(8)
    optimizer = Optimizer(name=name).build(3)
    like = abstract_state(INIT, optimizer, mesh, frozen())
    params = flatten(like.params)
    found = averages(like)
    if name == "muon":  # which names its two parts
        found = {path.removeprefix("adam/"): leaves for path, leaves in found.items()}
    assert found.keys() == {path for path in params if path.endswith(("lora_down", "lora_up"))}
    for path, leaves in found.items():
        assert [leaf.sharding for leaf in leaves] == [params[path].sharding] * 2, path
    assert params["blocks/mlp/in/lora_down"].sharding.spec == P("stage", "fsdp", None)
    assert params["blocks/mlp/in/lora_up"].sharding.spec == P("stage", None, "tensor")

    ones = jax.tree.map(lambda a: np.ones(a.shape, np.float32), like.params)
    ones, _ = split(ones, frozen())
    updates = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p)[0])(ones)
    assert all(np.all(update < 0) for update in jax.tree.leaves(jax.device_get(updates)))


def test_nothing_else_moves():
    """On a mesh that divides everything."""
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build(8)
    config = Optimizer(warmup_steps=0)
    optimizer = config.build(2)
    state = create_state(INIT, optimizer, mesh, jax.random.key(0), frozen())
    before = flatten(jax.device_get(state.params))
    rates, key = config.learning_rates(2), jax.random.key(1)
    step = jax.jit(make_train_step(partial(TASK.loss, MODEL), optimizer, rates, key, frozen()))
    for _ in range(2):  # after the first, A has a gradient too
        state, metrics = step(state, jax.device_put(BATCH, mesh.batch))
    assert metrics["gradient_norm"] > 0
    after = flatten(jax.device_get(state.params))
    assert {path for path in after if before[path].tobytes() != after[path].tobytes()} == {
        path for path in after if path.endswith(("lora_down", "lora_up"))
    }


def test_gradients_of_kernels_are_never_computed():
    """The step saves at least the products that they would take: 2 x tokens x parameters."""
    model = GPTConfig(num_layers=1, width=64, num_heads=2).resolve(vocab_size=256, context=8)
    init = initializer(TASK, model, ADAPTED)
    optimizer = Optimizer(name="sgd", clip_norm=0.0).build(1)

    def flops(fixed):
        state = abstract_state(init, optimizer, one_device(), fixed)
        step = make_train_step(
            partial(TASK.loss, model), optimizer, lambda _: jnp.zeros(()), jax.random.key(0), fixed
        )
        return jax.jit(step).lower(state, BATCH).compile().cost_analysis()["flops"]

    kernels = sum(
        leaf.size
        for path, leaf in flatten(abstract_state(init, optimizer, one_device()).params).items()
        if path.endswith(("kernel", "embedding/table")) and "position" not in path
    )
    saved = flops(frozenset()) - flops(frozen(init))
    assert saved > 2 * BATCH["inputs"].size * kernels


def test_every_adapter_is_used():
    """Layers with kernels of their own kind, which would not look at one, have none."""
    model = GPTConfig(
        num_layers=1, width=8, num_heads=2, activation="swiglu", tie_embeddings=False,
        experts=Experts(count=3, per_token=2),
    ).resolve(vocab_size=32, context=8)  # fmt: skip
    init = initializer(TASK, model, ADAPTED)
    params = create_state(init, Optimizer().build(1), one_device(), jax.random.key(0)).params
    gradients = jax.jit(jax.grad(lambda p, batch: TASK.loss(model, p, batch)[0]))(params, BATCH)
    ups = {p: leaf for p, leaf in flatten(gradients).items() if p.endswith("lora_up")}
    assert {path.split("/")[-2] for path in ups} >= {"query", "key", "value", "out", "output"}
    for path, leaf in ups.items():
        assert np.any(leaf != 0), path
    assert "blocks/experts/in/kernel" in flatten(params)
    assert "blocks/experts/in/lora_up" not in ups


def test_targets_are_ends_of_paths():
    layers = ["blocks/attention/out", "blocks/attention/query", "blocks/mlp/out", "output"]
    assert named_layers(layers, ("out",)) == ["blocks/attention/out", "blocks/mlp/out"]
    assert named_layers(layers, ("mlp/out", "q*")) == ["blocks/attention/query", "blocks/mlp/out"]
    assert named_layers(layers, ("output", "*")) == layers
    with pytest.raises(UserError, match="no linear layer 'querry'; did you mean 'query'"):
        named_layers(layers, ("querry",))
    with pytest.raises(UserError, match="no linear layer 'x'; there are out, output, query"):
        named_layers(layers, ("x",))
