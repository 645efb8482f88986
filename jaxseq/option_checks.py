"""Options out of range; a mistake names the option as the command line spells it."""

import functools
import math
import operator
from typing import Any

from jaxseq.errors import UserError

_BOUNDS = {
    "least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "most": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def option(section: str, name: str) -> str:
    """A field of a section's config (model, data, task, or of all: "") as on the command line."""
    return f"--{'.'.join(filter(None, (section, name)))}".replace("_", "-")


def check_range(section: str, config: Any, *names: str, **bounds: int | float) -> None:
    """Raises UserError for a field of `config` that is not finite, or out of bounds.

    `bounds` are any of least, above, most and below. A dot in a name leads into a nested config.
    """
    for name in names:
        value = functools.reduce(getattr, name.split("."), config)
        within = [_BOUNDS[kind][1](value, bound) for kind, bound in bounds.items()]
        if not math.isfinite(value) or not all(within):
            wanted = ["finite"] * (not math.isfinite(value))
            wanted += [f"{_BOUNDS[kind][0]} {bound}" for kind, bound in bounds.items()]
            raise UserError(
                f"{option(section, name)} is {value}; it must be {' and '.join(wanted)}"
            )
