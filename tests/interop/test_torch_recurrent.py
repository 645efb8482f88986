"""Weights to and from torch: laid out by hand here, and by torch itself where it is installed."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, random_params

from jaxseq.errors import UserError
from jaxseq.interop.torch_recurrent import Cell, from_torch, to_torch
from jaxseq.nn.recurrent import RecurrentStack
from jaxseq.reference import recurrent as reference

B, T, D, F = 3, 5, 3, 4
X = np.random.default_rng(0).normal(size=(B, T, D))
CELLS: dict[Cell, int] = {"elman": 1, "lstm": 4, "gru": 3}


def draw_state_dict(cell: Cell, prefix: str = "") -> dict[str, np.ndarray]:
    """Two layers in both directions, as torch names and shapes them."""
    normal, width = np.random.default_rng(1).normal, CELLS[cell] * F
    weights = {}
    for layer, inputs in enumerate((D, 2 * F)):
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            weights[f"{prefix}weight_ih{suffix}"] = normal(size=(width, inputs)) / 2
            weights[f"{prefix}weight_hh{suffix}"] = normal(size=(width, F)) / 2
            weights[f"{prefix}bias_ih{suffix}"] = normal(size=width)
            weights[f"{prefix}bias_hh{suffix}"] = normal(size=width)
    return weights


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def torch_equations(weights: dict[str, np.ndarray], cell: Cell) -> np.ndarray:
    """The equations in torch's documentation, with its names."""
    x = X
    for layer in range(2):
        outputs = []
        for suffix in (f"_l{layer}", f"_l{layer}_reverse"):
            h = c = np.zeros((B, F))
            rows = np.zeros((B, T, F))
            for t in reversed(range(T)) if "reverse" in suffix else range(T):
                a = x[:, t] @ weights[f"weight_ih{suffix}"].T + weights[f"bias_ih{suffix}"]
                b = h @ weights[f"weight_hh{suffix}"].T + weights[f"bias_hh{suffix}"]
                if cell == "elman":
                    h = np.tanh(a + b)
                elif cell == "lstm":
                    i, f, g, o = np.split(a + b, 4, axis=1)
                    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                    h = sigmoid(o) * np.tanh(c)
                else:
                    (a_r, a_z, a_n), (b_r, b_z, b_n) = np.split(a, 3, 1), np.split(b, 3, 1)
                    n, z = np.tanh(a_n + sigmoid(a_r + b_r) * b_n), sigmoid(a_z + b_z)
                    h = (1 - z) * n + z * h
                rows[:, t] = h
            outputs.append(rows)
        x = np.concatenate(outputs, axis=-1)
    return x


@pytest.mark.parametrize("cell", CELLS)
def test_imported_weights_compute_what_torch_documents(cell: Cell) -> None:
    weights = draw_state_dict(cell)
    params = from_torch(weights, cell, num_layers=2, bidirectional=True)
    expected = torch_equations(weights, cell)
    how = {"cell": cell, "num_layers": 2, "bidirectional": True}
    np.testing.assert_allclose(
        reference.recurrent_stack(params, X, **how)[0], expected, rtol=0, atol=1e-12
    )
    stack = RecurrentStack(cell, F, num_layers=2, bidirectional=True)
    with jax.enable_x64(True):
        y, _ = jax.jit(stack.apply)({"params": params}, jnp.asarray(X))
    assert_close(y, expected, "float64")


@pytest.mark.parametrize("cell", CELLS)
def test_exported_weights_come_back(cell: Cell) -> None:
    stack = RecurrentStack(cell, F, num_layers=2, bidirectional=True)
    params = random_params(stack, jnp.asarray(X, jnp.float32))
    exported = to_torch(params, prefix="encoder.")
    shapes = {name: array.shape for name, array in draw_state_dict(cell, "encoder.").items()}
    assert {name: array.shape for name, array in exported.items()} == shapes
    exported["decoder.weight"] = np.zeros(1)
    how = {"num_layers": 2, "bidirectional": True, "prefix": "encoder."}
    assert_same(from_torch(exported, cell, **how), params)


def test_no_biases_are_zeros() -> None:
    weights = draw_state_dict("gru")
    bare = {name: array for name, array in weights.items() if "weight" in name}
    params = from_torch(bare, "gru", num_layers=2, bidirectional=True)
    biases = {name: 0 * array for name, array in weights.items() if "bias" in name}
    assert_same(params, from_torch({**bare, **biases}, "gru", num_layers=2, bidirectional=True))


def test_weights_that_do_not_fit_are_named() -> None:
    weights = draw_state_dict("lstm")
    weights["weight_hr_l0"] = weights.pop("weight_hh_l1")
    weights["bias_ih_l0"] = np.zeros(3)
    with pytest.raises(UserError) as error:
        from_torch(weights, "lstm", num_layers=2, bidirectional=True)
    for part in ("weight_hh_l1 is missing", "weight_hr_l0 is left over", "bias_ih_l0 has shape"):
        assert part in str(error.value)
    for cell, num_layers in (("gru", 2), ("lstm", 1), ("lstm", 3)):
        with pytest.raises(UserError, match=f"{cell} with num_layers={num_layers}"):
            from_torch(draw_state_dict("lstm"), cell, num_layers=num_layers, bidirectional=True)
    with pytest.raises(UserError, match="is missing"):
        from_torch({}, "lstm")


def test_layers_that_torch_lacks_are_named() -> None:
    stack = RecurrentStack("lstm", F, layer_norm=True)
    with pytest.raises(UserError, match="norm_0"):
        to_torch(random_params(stack, jnp.asarray(X, jnp.float32)))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_torch(cell: Cell, dtype: str) -> None:
    """Imported weights give torch's outputs; exported ones make torch give ours."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    make = {"elman": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    module = make(D, F, num_layers=2, bidirectional=True, batch_first=True)
    module = module.to(getattr(torch, dtype))
    stack = RecurrentStack(cell, F, num_layers=2, bidirectional=True)
    tolerance = {"float32": 1e-5, "float64": 1e-10}[dtype]

    def both(params: dict[str, Any]) -> None:
        with torch.no_grad():
            expected, last = module(torch.tensor(X.astype(dtype)))
        with jax.enable_x64(dtype == "float64"):
            x, low = jnp.asarray(X, dtype), partial(jnp.asarray, dtype=dtype)
            y, carries = jax.jit(stack.apply)({"params": jax.tree.map(low, params)}, x)
        np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=tolerance)
        ours = [carry for layer in carries for carry in layer]
        ours = [*zip(*ours, strict=True)] if cell == "lstm" else [ours]
        for mine, theirs in zip(ours, last if cell == "lstm" else [last], strict=True):
            np.testing.assert_allclose(np.stack(mine), theirs.numpy(), rtol=0, atol=tolerance)

    both(from_torch(module.state_dict(), cell, num_layers=2, bidirectional=True))
    params = random_params(stack, jnp.asarray(X, jnp.float32))
    arrays = to_torch(jax.tree.map(lambda a: a.astype(dtype), params))
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    both(params)
