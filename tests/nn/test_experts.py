"""The mixture of experts against its twin, and its symmetries."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity, random_params

from jaxseq.errors import UserError
from jaxseq.nn.experts import Experts, MixtureOfExperts
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.reference.experts import kept_choices, mixture_of_experts, route

X = np.random.default_rng(5).normal(size=(2, 5, 6))
VALID = np.array([[True, True, True, True, False], [True, False, True, True, True]])
DROPLESS = Experts(count=4, per_token=2, balance_weight=0.5)
TIGHT = Experts(count=4, per_token=2, capacity_factor=0.6, balance_weight=0.5)
ROOMY = Experts(count=4, per_token=2, capacity_factor=9.0, balance_weight=0.5)

CASES = {
    "two of four": MixtureOfExperts(DROPLESS, 5),
    "one of four": MixtureOfExperts(Experts(4, 1), 5, "swiglu"),
    "all of three": MixtureOfExperts(Experts(3, 3), 5, "silu"),
    "one alone": MixtureOfExperts(Experts(1, 1), 5, "geglu"),
    "two of four, capacity": MixtureOfExperts(TIGHT, 5, "swiglu"),
    "one of four, capacity": MixtureOfExperts(Experts(4, 1, 0.6), 5),
}


def apply(layer: MixtureOfExperts, params, x, valid=None):
    """(y, balance loss)."""
    y, sown = layer.apply({"params": params}, x, valid, mutable="losses")
    (loss,) = sown["losses"]["balance"]
    return y, loss


def params_of(layer: MixtureOfExperts, dtype: str = "float32") -> dict:
    params = random_params(layer, jnp.asarray(X))
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)


def twin(layer: MixtureOfExperts, params, x, valid=VALID):
    y, loss = mixture_of_experts(params, x, valid, layer.experts, layer.activation)
    return y, np.asarray(loss)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float64") for case in CASES]
    + [("two of four", "float32"), ("one of four, capacity", "float32")],
)
def test_equals_twin(case: str, dtype: str) -> None:
    layer = CASES[case]
    valid = jnp.asarray(VALID)
    check_parity(
        lambda params, x: apply(layer, params, x, valid),
        partial(twin, layer),
        random_params(layer, jnp.asarray(X)),
        X,
        dtype=dtype,
    )


def test_without_padding_equals_twin() -> None:
    layer = CASES["two of four, capacity"]
    check_parity(
        partial(apply, layer),
        partial(twin, layer, valid=np.ones(VALID.shape, bool)),
        random_params(layer, jnp.asarray(X)),
        X,
        dtype="float32",
    )


def test_bfloat16_operands_equal_twin() -> None:
    layer, valid = CASES["two of four"], jnp.asarray(VALID)
    low = layer.clone(dtype=jnp.dtype("bfloat16"))
    params = random_params(layer, jnp.asarray(X))
    check_parity(
        lambda params, x: apply(low, params, x, valid),
        partial(twin, layer),
        params,
        X,
        dtype="float32",
        compute_dtype="bfloat16",
    )


@partial(jax.jit, static_argnums=0)
def run(layer: MixtureOfExperts, params, x, valid, in_padding=1.0):
    """((y, balance loss), gradient by parameters and x); `in_padding` is what comes back there."""
    outputs, pullback = jax.vjp(partial(apply, layer, valid=valid), params, x)
    dy = jnp.broadcast_to(1.0 + jnp.arange(6, dtype=x.dtype)[None, None] / 4, x.shape)
    if valid is not None:
        dy = jnp.where(valid[..., None], dy, in_padding)
    return outputs, pullback((dy, jnp.ones((), x.dtype)))


def test_enough_capacity_is_dropless() -> None:
    layer = CASES["two of four"]
    roomy = layer.clone(experts=ROOMY)
    params, x, valid = params_of(layer), jnp.asarray(X, jnp.float32), jnp.asarray(VALID)
    assert_close(run(roomy, params, x, valid), run(layer, params, x, valid), "float32")


def test_a_token_that_every_expert_drops_gives_zero() -> None:
    layer = CASES["one of four, capacity"]
    params, x = params_of(layer), jnp.asarray(X, jnp.float32)
    (y, _), (_, dx) = run(layer.clone(experts=Experts(4, 1, 0.6, 0.0)), params, x, None)
    logits = X @ np.asarray(params["router"]["kernel"])
    kept = kept_choices(route(logits, 1)[1], np.ones((2, 5), bool), 4, 0.6)[:, :, 0]
    assert 0 < np.sum(kept) < 10
    for z in (y, dx):
        np.testing.assert_array_equal(np.any(np.asarray(z) != 0, axis=-1), kept)


@pytest.mark.parametrize("experts", [DROPLESS, TIGHT])
def test_padding_matters_to_nothing(experts: Experts) -> None:
    layer = MixtureOfExperts(experts, 5)
    params, x, valid = params_of(layer), jnp.asarray(X, jnp.float32), jnp.asarray(VALID)
    clean = run(layer, params, x, valid)
    for junk in (jnp.nan, jnp.inf, 1e9):
        there = jnp.where(valid[..., None], x, junk)
        assert_same(run(layer, params, there, valid, in_padding=junk), clean)
    (y, _), (_, dx) = clean
    for z in (y, dx):
        np.testing.assert_array_equal(np.asarray(z)[~VALID], 0.0)
    # Nor does how much of it there is.
    wider = [jnp.pad(z, [(0, 0), (2, 3)] + [(0, 0)] * (z.ndim - 2)) for z in (x, valid)]
    (y_wide, loss), (dparams, dx_wide) = run(layer, params, *wider)
    assert_close(((y_wide[:, 2:-3], loss), (dparams, dx_wide[:, 2:-3])), clean, "float32")
    nothing = run(layer, params, jnp.full_like(x, jnp.nan), jnp.zeros(VALID.shape, bool))
    assert_same(nothing, jax.tree.map(jnp.zeros_like, nothing))


def test_an_empty_sequence_is_legal() -> None:
    for experts in (DROPLESS, TIGHT):
        layer = MixtureOfExperts(experts, 5)
        y, loss = jax.jit(partial(apply, layer))(params_of(layer), jnp.zeros((2, 0, 6)))
        assert y.shape == (2, 0, 6)
        assert loss == 0.0


@pytest.mark.parametrize("experts", [DROPLESS, TIGHT])
def test_experts_may_change_places(experts: Experts) -> None:
    layer = MixtureOfExperts(experts, 5)
    params, x, valid = params_of(layer), jnp.asarray(X, jnp.float32), jnp.asarray(VALID)
    order = np.array([2, 0, 3, 1])
    moved = {name: {"kernel": params[name]["kernel"][order]} for name in ("in", "out")}
    moved["router"] = {"kernel": params["router"]["kernel"][:, order]}
    assert_close(run(layer, moved, x, valid)[0], run(layer, params, x, valid)[0], "float32")


@pytest.mark.parametrize("experts", [DROPLESS, TIGHT])
def test_rows_do_not_touch_one_another(experts: Experts) -> None:
    layer = MixtureOfExperts(experts, 5)
    params, x, valid = params_of(layer), jnp.asarray(X, jnp.float32), jnp.asarray(VALID)
    (y, loss), (dparams, dx) = run(layer, params, x, valid)
    rows = [run(layer, params, x[b : b + 1], valid[b : b + 1]) for b in range(2)]
    assert_close(jnp.concatenate([row[0][0] for row in rows]), y, "float32")
    assert_close(jnp.concatenate([row[1][1] for row in rows]), dx, "float32")
    sums = [(row[0][1], row[1][0]) for row in rows]
    assert_close(jax.tree.map(jnp.add, *sums), (loss, dparams), "float32")


def test_a_single_choice_teaches_the_router() -> None:
    layer = MixtureOfExperts(Experts(4, 1, balance_weight=0.0), 5)
    _, (dparams, _) = run(layer, params_of(layer), jnp.asarray(X, jnp.float32), None)
    assert np.max(np.abs(dparams["router"]["kernel"])) > 1e-3


def test_parameters_and_their_places() -> None:
    layer = CASES["one of four"]
    boxed = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.asarray(X)))
    assert set(boxed) == {"params"}, "the loss is no variable of the model"
    found = {
        name: (leaf.names, leaf.value.shape)
        for name, part in boxed["params"].items()
        for leaf in [part["kernel"]]
    }
    into = (("expert", "embed", "mlp"), (4, 6, 5))
    assert found == {
        "router": (("embed", "expert"), (6, 4)),
        "in": into,
        "gate": into,
        "out": (("expert", "mlp", "embed"), (4, 5, 6)),
    }


def test_scanned_layers_equal_layers_in_a_row() -> None:
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, valid):
            return x + MixtureOfExperts(TIGHT, 5, name="experts")(x, valid), None

    stack = nn.scan(
        nn.remat(Layer, prevent_cse=False),
        variable_axes={"params": 0, "losses": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=2,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )()
    x, valid = jnp.asarray(X, jnp.float32), jnp.asarray(VALID)
    params = random_params(stack, x, valid)
    params = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), params)

    def scanned(params, x):
        (y, _), sown = stack.apply({"params": params}, x, valid, mutable="losses")
        (losses,) = sown["losses"]["experts"]["balance"]
        return y, losses

    def in_a_row(params, x):
        losses = []
        for i in range(2):
            layer = jax.tree.map(lambda p, i=i: p[i], params["experts"])
            y, loss = apply(MixtureOfExperts(TIGHT, 5), layer, x, valid)
            x, losses = x + y, [*losses, loss]
        return x, jnp.stack(losses)

    def both(f):
        def total(params, x):
            y, losses = f(params, x)
            return jnp.sum(y**2) + jnp.sum(losses), (y, losses)

        return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(params, x)

    assert_close(both(scanned), both(in_a_row), "float32")


@pytest.mark.parametrize("experts", [DROPLESS, TIGHT])
def test_eight_devices_equal_one(experts: Experts) -> None:
    layer = MixtureOfExperts(experts, 16, "swiglu")
    x = np.random.default_rng(1).normal(size=(4, 6, 6)).astype(np.float32)
    valid = np.arange(24).reshape(4, 6) % 5 != 3
    boxed = jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.asarray(x)))["params"]
    params = jax.tree.map(np.float32, random_params(layer, jnp.asarray(x)))
    one = run(layer, *jax.tree.map(jnp.asarray, (params, x, valid)))
    layout = MeshConfig(data=1, fsdp=2, expert=2, tensor=2).build(4)
    with layout.use():
        placed = jax.device_put(params, layout.parameters(boxed))
        assert placed["in"]["kernel"].addressable_shards[0].data.shape == (2, 3, 8)
        junk = np.where(valid[:, :, None], x, np.nan)
        many = run(layer, placed, *jax.device_put((junk, valid), layout.batch))
    assert_close(jax.tree.map(np.asarray, many), one, "float32")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": -1}, r"--model.experts.count is -1"),
        ({"per_token": 0}, r"--model.experts.per-token is 0"),
        ({"count": 2, "per_token": 3}, r"per-token 3 is more than --model.experts.count 2"),
        ({"capacity_factor": -0.5}, r"--model.experts.capacity-factor is -0.5"),
        ({"balance_weight": -1.0}, r"--model.experts.balance-weight is -1.0"),
    ],
)
def test_errors_name_the_option(fields: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Experts(**fields)
