"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) beside the kernels of linear layers.

    y = x W + s (x A) B        A (D, r), B (r, F), s = alpha / r

W stays as it is; A starts as normal numbers of standard deviation 1 / sqrt(D) and B at zero, so
that the adapted model starts as the model itself. They live in the parameter tree beside W, as
"lora_down" (A), "lora_up" (B) and "lora_scale" (s), where `nn.Linear` finds them; those of stacked
layers have the leading layer axis of their kernel.
"""

from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.errors import UserError
from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import flatten, unflatten
from jaxseq.typing import Array, Key, PyTree

DOWN, UP, SCALE = "lora_down", "lora_up", "lora_scale"


def with_adapters(
    init: Callable[[Key[Array, ""]], PyTree], targets: Sequence[str], rank: int, alpha: float
) -> Callable[[Key[Array, ""]], PyTree]:
    """`init` with adapters of `rank` at every linear layer that one of `targets` names.

    A target is the end of a layer's path ("query", "mlp/out") and may hold * and ?. Parameters
    are in their boxes of axis names, before and after; those of `init` are drawn as they are
    without adapters. Raises UserError for a target that names no layer.
    """

    def adapted_init(key: Key[Array, ""]) -> PyTree:
        layers: set[str] = set()

        def note(next_call: Callable, args: tuple, options: dict, context: Any) -> Any:
            if isinstance(context.module, Linear):
                layers.add("/".join(context.module.path))
            return next_call(*args, **options)

        # A kernel is not enough to know a layer that looks for adapters by.
        with nn.intercept_methods(note):
            params = flatten(init(key))
        for number, layer in enumerate(named_layers(layers, targets)):
            kernel = params[f"{layer}/kernel"]
            *stack, d, f = kernel.value.shape
            *stack_axes, d_axis, f_axis = kernel.names
            draw = jax.random.normal(jax.random.fold_in(key, number), (*stack, d, rank))
            for name, value, axes in (
                (DOWN, draw / d**0.5, (*stack_axes, d_axis, None)),
                (UP, jnp.zeros((*stack, rank, f)), (*stack_axes, None, f_axis)),
                (SCALE, jnp.full(stack, alpha / rank), tuple(stack_axes)),
            ):
                value = value.astype(kernel.value.dtype)
                params[f"{layer}/{name}"] = nn.LogicallyPartitioned(value, axes)
        return unflatten(params)

    return adapted_init


def named_layers(layers: Collection[str], targets: Sequence[str]) -> list[str]:
    """Those of `layers`, paths of linear layers, that `targets` name, in order.

    Raises UserError for a target that names none.
    """
    chosen = set()
    for target in targets:
        named = [layer for layer in layers if fnmatchcase(f"/{layer}", f"*/{target}")]
        if not named:
            known = sorted({layer.rsplit("/", 1)[-1] for layer in layers})
            near = get_close_matches(target, [*known, *sorted(layers)], n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise UserError(
                f"--finetune.lora-targets: the model has no linear layer '{target}'; {hint}"
            )
        chosen |= set(named)
    return sorted(chosen)


def is_adapter(path: str) -> bool:
    """Whether the parameter at `path` belongs to an adapter."""
    return path.rsplit("/", 1)[-1] in (DOWN, UP, SCALE)


def merge(params: PyTree) -> PyTree:
    """Parameters without adapters that compute the same: W + s A B for every adapted W."""
    leaves = flatten(params)
    merged = {path: leaf for path, leaf in leaves.items() if not is_adapter(path)}
    for path, up in leaves.items():
        if path.endswith(f"/{UP}"):
            layer = path.removesuffix(f"/{UP}")
            down, scale = leaves[f"{layer}/{DOWN}"], leaves[f"{layer}/{SCALE}"]
            # Exact sums whatever the compute dtype: this happens once, and its error would stay.
            product = jnp.matmul(down, up, precision=lax.Precision.HIGHEST)
            merged[f"{layer}/kernel"] += scale[..., None, None] * product
    return unflatten(merged)
