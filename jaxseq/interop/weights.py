"""Which tensor of a checkpoint is which parameter: said once, used in both directions."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Sharding

from jaxseq.errors import UserError
from jaxseq.interop.tensors import TensorReader
from jaxseq.typing import Array, PyTree

LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Weight:
    """A parameter, and the tensor that Hugging Face has for it.

    `{layer}` in the tensor's name is the number of the layer: the parameter then has a leading
    axis of layers. `transposed`: the tensor is (out, in) where the parameter is (in, out). `part`
    (i, n): the parameter is the i-th of n equal parts of the tensor's last axis. `skip`: the
    tensor has that many rows in front which nobody uses. `row`: the tensor has a leading axis of
    size 1. `copies` are other names under which a checkpoint may repeat the tensor. An `optional`
    one may be missing: it is then what a fresh layer has.
    """

    ours: str
    theirs: str
    transposed: bool = False
    part: tuple[int, int] = (0, 1)
    skip: int = 0
    row: bool = False
    copies: tuple[str, ...] = ()
    optional: bool = False

    @property
    def stacked(self) -> bool:
        """Whether there is one tensor for every layer."""
        return LAYER in self.theirs

    def names(self, layers: int) -> list[str]:
        """The tensors' names, layer by layer."""
        if not self.stacked:
            return [self.theirs]
        return [self.theirs.replace(LAYER, str(layer)) for layer in range(layers)]

    def tensor_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of one tensor, for a parameter of `shape`."""
        one = list(shape[1:] if self.stacked else shape)
        one[-1] *= self.part[1]
        one[0] += self.skip
        if self.transposed:
            one.reverse()
        return (1, *one) if self.row else tuple(one)

    def read(
        self, reader: TensorReader, shape: Sequence[int], index: tuple[slice, ...]
    ) -> np.ndarray:
        """What stands at `index` of the parameter, as float32."""
        bounds = [range(size)[at] for size, at in zip(shape, index, strict=True)]
        layers = bounds.pop(0) if self.stacked else range(1)
        starts = [0] * len(bounds)
        starts[-1] += self.part[0] * shape[-1]
        starts[0] += self.skip
        where = [
            slice(start + at.start, start + at.stop)
            for start, at in zip(starts, bounds, strict=True)
        ]
        if self.transposed:
            where.reverse()
        if self.row:
            where.insert(0, slice(0, 1))

        def one(name: str) -> np.ndarray:
            tensor = reader.read(name, tuple(where)).astype(np.float32)
            tensor = tensor[0] if self.row else tensor
            return tensor.T if self.transposed else tensor

        if not self.stacked:
            return np.ascontiguousarray(one(self.theirs))
        return np.stack([one(self.theirs.replace(LAYER, str(layer))) for layer in layers])


def read_parameters(
    reader: TensorReader,
    weights: Iterable[Weight],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    shardings: Mapping[str, Sharding],
    unused: Callable[[str], bool],
) -> dict[str, Array]:
    """The parameters by their /-joined path, each read straight onto the devices it lives on.

    `shapes` are those of the model. `unused` says of a tensor that no model needs it. Raises
    UserError that lists the tensors that are missing, have another shape or are left over.
    """
    weights = list(weights)
    problems, used = [], set()
    for weight in weights:
        shape = shapes[weight.ours].shape
        if weight.optional and weight.theirs not in reader.shapes:
            continue
        for name in weight.names(shape[0]):
            used.add(name)
            expected = weight.tensor_shape(shape)
            found = reader.shapes.get(name)
            if found is None:
                problems.append(f"{name} is missing")
            elif tuple(found) != expected:
                problems.append(f"{name} is {tuple(found)} and not {expected}")
        used.update(weight.copies)
    uncovered = sorted(set(shapes) - {weight.ours for weight in weights})
    assert not uncovered, f"no weight is written down for {uncovered}"
    left = [name for name in reader.shapes if name not in used and not unused(name)]
    problems += [f"{name} is left over" for name in left]
    if problems:
        shown = "; ".join(problems[:20])
        more = f"; and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(f"{reader.path} does not fit its config.json: {shown}{more}")

    def read(weight: Weight) -> Array:
        shape = shapes[weight.ours].shape
        if weight.optional and weight.theirs not in reader.shapes:
            return jax.device_put(_fresh(weight.ours, shape), shardings[weight.ours])
        return jax.make_array_from_callback(
            shape, shardings[weight.ours], lambda index: weight.read(reader, shape, index)
        )

    return {weight.ours: read(weight) for weight in weights}


def _fresh(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) == 1:
        return np.full(shape, name.endswith("scale"), np.float32)
    draw = np.random.default_rng(list(name.encode()))
    return (0.02 * draw.standard_normal(shape)).astype(np.float32)


def write_tensors(
    weights: Iterable[Weight], params: Mapping[str, Array]
) -> Iterable[tuple[str, Callable[[], np.ndarray]]]:
    """(name, function that makes the tensor) of every tensor of a checkpoint, one at a time."""
    by_name: dict[str, list[tuple[Weight, int]]] = {}
    for weight in weights:
        for layer, name in enumerate(weight.names(params[weight.ours].shape[0])):
            by_name.setdefault(name, []).append((weight, layer))

    def make(parts: list[tuple[Weight, int]]) -> np.ndarray:
        arrays = []
        for weight, layer in sorted(parts, key=lambda part: part[0].part):
            array = params[weight.ours]
            arrays.append(np.asarray(array[layer] if weight.stacked else array))
        weight = parts[0][0]
        tensor = np.concatenate(arrays, axis=-1) if len(arrays) > 1 else arrays[0]
        if weight.skip:
            tensor = np.concatenate([np.zeros_like(tensor[: weight.skip]), tensor])
        tensor = tensor.T if weight.transposed else tensor
        return np.ascontiguousarray(tensor[None] if weight.row else tensor)

    for name, parts in by_name.items():
        yield name, lambda parts=parts: make(parts)


def by_path(tree: PyTree) -> dict[str, PyTree]:
    """The leaves of nested dictionaries by their /-joined path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        found["/".join(key.key for key in path)] = leaf
    return found


def nested(leaves: Mapping[str, PyTree]) -> dict[str, PyTree]:
    """The nested dictionaries that `by_path` took apart."""
    tree: dict[str, PyTree] = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        at = tree
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = leaf
    return tree
