"""Weights of torch.nn.RNN, LSTM and GRU in and out of `nn.recurrent.RecurrentStack`; no torch.

torch keeps, for layer l and its reverse direction (suffix "_reverse"),

    weight_ih_l (G, D)    weight_hh_l (G, F)    bias_ih_l (G,)    bias_hh_l (G,)

with our order of gates; kernels here are the transposes. Biases of RNN and LSTM matter only by
their sum, our `bias`: it goes out as bias_ih, with bias_hh 0. So it is for r and z of a GRU; for n,
bias_ih is the last third of `bias` and bias_hh is `recurrent_bias`. The precision is kept as it
is, so that float64 weights stay exact.
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from jaxseq.errors import UserError

Cell = Literal["elman", "lstm", "gru"]
Arrays = dict[str, np.ndarray]

GATES = {"elman": 1, "lstm": 4, "gru": 3}


def from_torch(
    state_dict: Mapping[str, Any],
    cell: Cell,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    prefix: str = "",
) -> dict[str, Arrays]:
    """The parameters of a RecurrentStack that computes what the torch module does.

    `state_dict` maps names to arrays or torch tensors on the CPU; those not starting with `prefix`
    ("encoder.rnn.", say) are not looked at. A module made with bias=False has zeros for biases.
    Raises UserError with all names that are missing, left over or of a wrong shape.
    """
    found = {
        name.removeprefix(prefix): np.asarray(value)
        for name, value in state_dict.items()
        if name.startswith(prefix)
    }
    sides = directions(num_layers, bidirectional)
    check(found, cell, num_layers, bidirectional)
    return {ours: layer_from_torch(found, cell, theirs) for ours, theirs in sides.items()}


def to_torch(params: Mapping[str, Mapping[str, Any]], *, prefix: str = "") -> Arrays:
    """A state dict, of NumPy arrays, for a torch module with `params` of a RecurrentStack.

    Raises UserError for parameters that the torch modules do not have, layer norms among them.
    """
    arrays = {}
    for ours, layer in params.items():
        name = f"{prefix}{{}}_l{ours.removeprefix('layer_')}"
        gates = {"kernel", "recurrent_kernel", "bias"}
        if not ours.startswith("layer_") or not gates <= set(layer) <= {*gates, "recurrent_bias"}:
            raise UserError(f"torch has no place for {ours} with parameters {sorted(layer)}")
        bias = np.asarray(layer["bias"])
        recurrent_bias = np.zeros_like(bias)
        if "recurrent_bias" in layer:
            recurrent_bias[2 * len(bias) // 3 :] = layer["recurrent_bias"]
        arrays[name.format("weight_ih")] = np.asarray(layer["kernel"]).T.copy()
        arrays[name.format("weight_hh")] = np.asarray(layer["recurrent_kernel"]).T.copy()
        arrays[name.format("bias_ih")] = bias.copy()
        arrays[name.format("bias_hh")] = recurrent_bias
    return arrays


def directions(num_layers: int, bidirectional: bool) -> dict[str, str]:
    """Our name and torch's suffix of every layer and direction, from the input up."""
    ways = ("", "_reverse") if bidirectional else ("",)
    return {f"layer_{i}{way}": f"_l{i}{way}" for i in range(num_layers) for way in ways}


def layer_from_torch(found: Arrays, cell: Cell, suffix: str) -> Arrays:
    """The parameters of one layer and direction."""
    kernel, recurrent_kernel = found[f"weight_ih{suffix}"].T, found[f"weight_hh{suffix}"].T
    bias_ih = found.get(f"bias_ih{suffix}", np.zeros(kernel.shape[1:], kernel.dtype))
    bias_hh = found.get(f"bias_hh{suffix}", np.zeros_like(bias_ih))
    params = {"kernel": kernel.copy(), "recurrent_kernel": recurrent_kernel.copy()}
    if cell != "gru":
        return {**params, "bias": bias_ih + bias_hh}
    n = 2 * recurrent_kernel.shape[0]
    bias = np.concatenate([bias_ih[:n] + bias_hh[:n], bias_ih[n:]])
    return {**params, "bias": bias, "recurrent_bias": bias_hh[n:].copy()}


def check(found: Arrays, cell: Cell, num_layers: int, bidirectional: bool) -> None:
    """Raises UserError unless `found` holds exactly what such a torch module does."""
    first = found.get("weight_hh_l0", np.zeros((0, 0)))
    features = first.shape[-1]
    width = GATES[cell] * features
    outputs = features * (2 if bidirectional else 1)
    inputs = found.get("weight_ih_l0", first).shape[-1]
    has_bias = any(name.startswith("bias_") for name in found)
    shapes: dict[str, tuple[int, ...]] = {}
    for suffix in directions(num_layers, bidirectional).values():
        below = inputs if suffix.startswith("_l0") else outputs
        shapes[f"weight_ih{suffix}"] = (width, below)
        shapes[f"weight_hh{suffix}"] = (width, features)
        if has_bias:
            shapes[f"bias_ih{suffix}"] = shapes[f"bias_hh{suffix}"] = (width,)
    problems = [f"{name} is missing" for name in shapes if name not in found]
    problems += [f"{name} is left over" for name in found if name not in shapes]
    problems += [
        f"{name} has shape {found[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    if problems:
        what = f"{cell} with num_layers={num_layers}, bidirectional={bidirectional}"
        raise UserError(f"weights are not those of torch's {what}: {'; '.join(problems)}")
