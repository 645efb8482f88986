"""TPU slices by name, as devices that programs compile for and nothing runs on.

Ahead-of-time compilation needs the TPU compiler (`pip install 'jaxseq[tpu]'`) and no TPU.
"""

import difflib
import importlib.util
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxseq.errors import UserError

# (axes of the torus, the longest of them) of what can be rented.
SHAPES = {"v4": (3, 16), "v5e": (2, 16), "v5p": (3, 24), "v6e": (2, 16), "tpu7x": (3, 24)}
NEAR = 4
"""How many names an error lists."""

# What libtpu would ask the metadata server of a TPU machine for.
ANSWERS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def topology_devices(name: str, slices: int = 1) -> list[Any]:
    """The devices of the slice `name`, such as "v5p:8x8x8", or of `slices` such slices.

    The process must not have a TPU of its own: set JAX's platform to cpu before its first array.
    Raises UserError for a name that no topology has, listing those near, and where the compiler
    is not installed.
    """
    from jax.experimental import topologies

    version, shape = _parsed(name)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"--topology {name} needs the TPU compiler, which compiles without a TPU; "
            "install it with: pip install -c constraints.txt -e '.[tpu]'"
        )
    for variable, answer in ANSWERS.items():
        os.environ.setdefault(variable, answer)
    options: dict[str, Any] = {}
    if version == "v4":
        options["chip_config_name"] = "megacore"  # one device a chip, as on Cloud TPU
    if slices > 1:
        options["num_slices"] = slices
    asked = f"{version}:{'x'.join(map(str, shape))}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=asked, **options)
    except jax.errors.JaxRuntimeError as error:
        near = ", ".join(near_names(name))
        raise UserError(f"there is no topology {name}; near it are {near}") from error
    return list(found.devices)


def near_names(name: str) -> list[str]:
    """The names of topologies that `name` may have meant, nearest first.

    Google's names of machines (v5litepod-256, v5p-1024) have their slices; other names those of
    the same version whose shapes, or else number of chips, are nearest.
    """
    version, _, rest = re.sub(r"^v5litepod", "v5e", name.lower()).replace("-", ":").partition(":")
    version = {"v5": "v5p", "v6": "v6e", "v7x": "tpu7x"}.get(version, version)
    sizes = [int(size) for size in re.findall(r"\d+", rest)] or [8]
    if version not in SHAPES:
        known = [other for other in SHAPES if SHAPES[other][0] == len(sizes)] or list(SHAPES)
        version = difflib.get_close_matches(version, known, n=1, cutoff=0.0)[0]
    chips = math.prod(sizes)
    if len(sizes) == 1 and version in ("v4", "v5p"):
        chips //= 2  # those count cores
    asked = sorted(sizes)

    def far(shape: tuple[int, ...]) -> tuple[float, float]:
        count = abs(math.log(math.prod(shape) / max(chips, 1)))
        if len(asked) != len(shape):
            return count, max(shape) / min(shape)
        return sum(abs(math.log(a / max(b, 1))) for a, b in zip(shape, asked, strict=True)), count

    nearest = sorted(_shapes(version), key=far)[:NEAR]
    return [f"{version}:{'x'.join(map(str, shape))}" for shape in nearest]


def torus(devices: Sequence[Any]) -> tuple[int, ...]:
    """How long each axis of the slice of `devices` is; empty for devices without coordinates."""
    places = [device.coords for device in devices if hasattr(device, "coords")]
    return tuple(max(along) + 1 for along in zip(*places, strict=True)) if places else ()


def _parsed(name: str) -> tuple[str, tuple[int, ...]]:
    match = re.fullmatch(r"(v4|v5e|v5p|v6e|tpu7x):(\d+(?:x\d+){1,2})", name)
    shape = tuple(map(int, match[2].split("x"))) if match else ()
    if not match or sorted(shape) not in map(sorted, _shapes(match[1])):
        raise UserError(
            f"there is no topology {name}; near it are {', '.join(near_names(name))}; a name is "
            f"VERSION:SHAPE, with the versions {', '.join(SHAPES)}"
        )
    return match[1], shape


def _shapes(version: str) -> Iterator[tuple[int, ...]]:
    """The shapes of a version's slices, each from its shortest axis to its longest."""
    axes, longest = SHAPES[version]
    lengths = [1, 2, *range(4, longest + 1, 4)] if axes == 3 else [2, 4, 8, 16]
    for shape in itertools.combinations_with_replacement(lengths, axes):
        whole_cubes = all(length % 4 == 0 for length in shape)
        small = shape in ((1, 2, 2), (2, 2, 2), (2, 2, 4), (2, 4, 4))
        if axes == 2 and shape[1] <= 2 * shape[0]:
            yield shape
        elif axes == 3 and (whole_cubes or small):
            # Named with the host's 2 x 2 x 1 chips first.
            yield (2, 2, 1) if shape == (1, 2, 2) else shape
