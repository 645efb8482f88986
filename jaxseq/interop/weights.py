"""Which tensor of a checkpoint is which parameter: said once, used in both directions."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Sharding

from jaxseq.errors import UserError
from jaxseq.interop.tensors import TensorReader
from jaxseq.typing import Array, Float

LAYER = "{layer}"
FLOATS = ("F64", "F32", "F16", "BF16")
SHOWN = 20
"""Tensors that an error lists at most."""


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter, and the tensor that Hugging Face has for it."""

    ours: str
    """The parameter's path."""
    theirs: str
    """The tensor's name; with `{layer}`, the number of the layer, the parameter has a leading axis
    of layers."""
    transposed: bool = False
    """The tensor is (out, in) where the parameter is (in, out)."""
    part: tuple[int, int] = (0, 1)
    """(i, n): the parameter is the i-th of n equal parts of the tensor's last axis."""
    unused_rows: int = 0
    """So many rows stand in front in the tensor that no model looks up."""
    leading_one: bool = False
    """The tensor has a leading axis of size 1."""
    copies: tuple[str, ...] = ()
    """Other names under which a checkpoint has the tensor too, or instead."""
    optional: bool = False
    """A checkpoint may lack it: the parameter is then as a fresh layer has it."""

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor for every layer."""
        return LAYER in self.theirs

    def names(self, shape: Sequence[int]) -> list[str]:
        """The tensors' names, layer by layer, for a parameter of `shape`."""
        layers = shape[0] if self.stacked else 1
        return [self.theirs.replace(LAYER, str(layer)) for layer in range(layers)]

    def tensor_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one tensor, for a parameter of `shape`."""
        one = list(shape[1:] if self.stacked else shape)
        one[-1] *= self.part[1]
        one[0] += self.unused_rows
        if self.transposed:
            one.reverse()
        return (1, *one) if self.leading_one else tuple(one)

    def read(
        self, reader: TensorReader, shape: Sequence[int], index: tuple[slice, ...]
    ) -> Float[np.ndarray, "..."]:
        """What stands at `index` of the parameter, as float32; nothing else is read."""
        ranges = [range(size)[at] for size, at in zip(shape, index, strict=True)]
        found = np.empty([len(places) for places in ranges], np.float32)
        layers = ranges.pop(0) if self.stacked else range(1)
        first = [0] * len(ranges)
        first[-1] += self.part[0] * shape[-1]
        first[0] += self.unused_rows
        where = [
            slice(start + places.start, start + places.stop)
            for start, places in zip(first, ranges, strict=True)
        ]
        if self.transposed:
            where.reverse()
        if self.leading_one:
            where.insert(0, slice(0, 1))
        names = self._names_in(reader, shape)
        # Straight to its place: two whole copies of a stack of layers may not fit.
        layered = found if self.stacked else found[None]
        for place, layer in enumerate(layers):
            tensor = reader.read(names[layer], tuple(where))
            tensor = tensor[0] if self.leading_one else tensor
            layered[place] = tensor.T if self.transposed else tensor
        return found

    def array(self, reader: TensorReader, shape: tuple[int, ...], sharding: Sharding) -> Array:
        """The parameter, of which each device reads its share."""

        def share(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # typed so for callbacks of another kind
            return self.read(reader, shape, index)

        # What was read is given back before the next parameter is.
        return jax.make_array_from_callback(shape, sharding, share).block_until_ready()

    def absent(self, reader: TensorReader) -> bool:
        """Whether the checkpoint lacks the tensor and may."""
        return self.optional and not reader.shapes.keys() & {self.theirs, *self.copies}

    def problems(self, reader: TensorReader, shape: Sequence[int]) -> list[str]:
        """What of the tensors is missing, or is not what this parameter can be read from."""
        if self.absent(reader):
            return []
        expected, found = self.tensor_shape(shape), []
        for name in self._names_in(reader, shape):
            if name not in reader.shapes:
                found.append(f"{name} is missing")
            elif reader.shapes[name] != expected:
                found.append(f"{name} is {reader.shapes[name]} and not {expected}")
            elif reader.dtypes[name] not in FLOATS:
                found.append(f"{name} is quantised ({reader.dtypes[name]}), which is not read")
        return found

    def _names_in(self, reader: TensorReader, shape: Sequence[int]) -> list[str]:
        for copy in self.copies:  # of tensors under two names some writers keep the second
            if self.theirs not in reader.shapes and copy in reader.shapes:
                return [copy]
        return self.names(shape)


def read_parameters(
    reader: TensorReader,
    weights: Sequence[Weight],
    shapes: Mapping[str, tuple[int, ...]],
    shardings: Mapping[str, Sharding],
    unused: Callable[[str], object],
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """(parameters by their path, the paths of those that the checkpoint lacks and are fresh).

    Each is read straight onto the devices where it lives. `shapes` are those of the model, and
    `weights` cover them. `unused` is true of the name of a tensor that no model needs. Raises
    UserError that lists the tensors that are missing, have another shape or are left over.
    """
    assert {weight.ours for weight in weights} == shapes.keys(), "every parameter has one weight"
    # The parts of one tensor find the same.
    problems = [*dict.fromkeys(p for w in weights for p in w.problems(reader, shapes[w.ours]))]
    used = {name for w in weights for name in (*w.names(shapes[w.ours]), *w.copies)}
    problems += [
        f"{name} is left over" for name in reader.shapes if name not in used and not unused(name)
    ]
    if problems:
        shown = "; ".join(problems[:SHOWN])
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(f"{reader.path} does not fit its config.json: {shown}{more}")

    params, fresh = {}, []
    # The largest first: its passage through the host is over before memory is full.
    for weight in sorted(weights, key=lambda weight: -math.prod(shapes[weight.ours])):
        name, shape = weight.ours, shapes[weight.ours]
        if weight.absent(reader):
            params[name] = jax.device_put(_fresh(name, shape), shardings[name])
            fresh.append(name)
            continue
        params[name] = weight.array(reader, shape, shardings[name])
    return params, tuple(sorted(fresh))


def _fresh(name: str, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    if len(shape) == 1:
        return np.full(shape, name.endswith("scale"), np.float32)
    draw = np.random.default_rng(list(name.encode()))
    return (0.02 * draw.standard_normal(shape)).astype(np.float32)


def tensors_of(
    weights: Sequence[Weight], params: Mapping[str, Array]
) -> Iterator[tuple[str, Float[np.ndarray, "..."]]]:
    """The tensors of a checkpoint by name, each made when it is asked for."""
    sharing: dict[str, list[Weight]] = {}
    for weight in sorted(weights, key=lambda weight: weight.part):
        sharing.setdefault(weight.theirs, []).append(weight)
    for first, *others in sharing.values():
        for layer, name in enumerate(first.names(params[first.ours].shape)):
            parts = [
                np.asarray(params[w.ours][layer] if w.stacked else params[w.ours], np.float32)
                for w in (first, *others)
            ]
            tensor = np.concatenate(parts, axis=-1) if others else parts[0]
            if first.unused_rows:
                tensor = np.concatenate([np.zeros_like(tensor[: first.unused_rows]), tensor])
            tensor = tensor.T if first.transposed else tensor
            yield name, np.ascontiguousarray(tensor[None] if first.leading_one else tensor)
