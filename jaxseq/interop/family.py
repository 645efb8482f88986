"""What the checkpoints of one kind of model on the Hugging Face hub look like."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxseq.errors import UserError
from jaxseq.interop.weights import Weight
from jaxseq.option_checks import option

CONFIG_FILE = "config.json"


class Fields:
    """The fields of a config.json, which say what they lack and what cannot be read."""

    def __init__(self, path: Path, fields: Mapping[str, Any]):
        """Of the file at `path`."""
        self.path = path
        self._fields = fields

    @classmethod
    def read(cls, directory: Path) -> "Fields":
        """Those of a checkpoint's directory; UserError where the file is missing or damaged."""
        path = directory / CONFIG_FILE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"cannot read {path}: {error.strerror}; name the directory of a Hugging Face model"
            ) from error
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); fetch it again") from error
        if not isinstance(fields, dict):
            raise UserError(f"{path} is no JSON object; fetch it again")
        return cls(path, fields)

    def __getitem__(self, name: str) -> Any:
        if self._fields.get(name) is None:
            raise UserError(f"{self.path} has no '{name}'; fetch it again")
        return self._fields[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The field, or the default that transformers gives a missing one."""
        value = self._fields.get(name)
        return default if value is None else value

    def refuse(self, **understood: Any) -> None:
        """Raises UserError for a field that is there and is not as we understand it."""
        for name, value in understood.items():
            found = self.get(name, value)
            if found != value:
                raise UserError(
                    f"{self.path}: {name} is {found!r}, which jaxseq has no model for; it reads "
                    f"{value!r} alone"
                )

    def choose(self, name: str, choices: Mapping[str, str], default: str) -> Any:
        """Our name for the value of a field; UserError for one that we have none for."""
        found = self.get(name, default)
        if isinstance(found, list):  # architectures: the first is the checkpoint's own
            found = found[0] if found else default
        if not isinstance(found, str) or found not in choices:
            raise UserError(
                f"{self.path}: {name} is {found!r}; jaxseq reads {', '.join(map(repr, choices))}"
            )
        return choices[found]


ACTIVATIONS = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Our name for what transformers calls so; the other way round, the first counts."""


def their_activation(ours: str) -> str:
    """The name that transformers has for a nonlinearity of ours."""
    return next(theirs for theirs, name in ACTIVATIONS.items() if name == ours)


@dataclasses.dataclass(frozen=True)
class Family:
    """A kind of checkpoint."""

    model_types: tuple[str, ...]
    """The values of config.json's model_type."""
    read_config: Callable[[Fields], Any]
    """Our config for a config.json."""
    write_config: Callable[[Any], dict[str, Any]]
    """The config.json for a config of ours that there is no `refusal` of."""
    refusal: Callable[[Any], str]
    """Why there is no such checkpoint of a config; "" where there is."""
    weights: Callable[[Any, str], list[Weight]]
    """The parameters of (config, head)."""
    prefix: str
    """What the tensors' names begin with, and lack in the checkpoint of a bare model."""
    renamed: tuple[tuple[str, str], ...] = ()
    """(old end, new end) of names in old checkpoints."""
    unused: re.Pattern[str] = re.compile(r"(?!)")
    """The names of tensors that no model needs."""


def linear(ours: str, theirs: str, bias: bool = True, **options: Any) -> list[Weight]:
    """A layer y = x W + b, whose tensors torch.nn.Linear has as (out, in)."""
    weights = [Weight(f"{ours}/kernel", f"{theirs}.weight", transposed=True, **options)]
    if bias:
        weights.append(Weight(f"{ours}/bias", f"{theirs}.bias", **options))
    return weights


def norm(ours: str, theirs: str, bias: bool = True, **options: Any) -> list[Weight]:
    """A normalisation's scale and bias."""
    weights = [Weight(f"{ours}/scale", f"{theirs}.weight", **options)]
    if bias:
        weights.append(Weight(f"{ours}/bias", f"{theirs}.bias", **options))
    return weights


def first_difference(config: Any, **understood: Any) -> str:
    """Why a config cannot be exported: the first field that is not as the family has it."""
    for name, value in understood.items():
        if getattr(config, name) != value:
            has = f"{option('model', name)} is {getattr(config, name)!r}"
            return f"{has} and would have to be {value!r}"
    return ""
