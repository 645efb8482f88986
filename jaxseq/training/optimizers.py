"""Optimizers and schedules from optax, chosen by config."""

import dataclasses
from typing import Literal

import jax
import optax
import optax.contrib

from jaxseq.option_checks import check_range
from jaxseq.training.moments import stored_in_bfloat16
from jaxseq.typing import PyTree


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Gradient clipping, an optimizer, weight decay and a learning-rate schedule."""

    name: Literal["adamw", "muon", "lion", "sgd"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019), Muon (Jordan 2024), Lion (Chen 2023), or SGD."""
    learning_rate: float = 1e-3
    """Peak learning rate. For Muon: of the matrices; the rest uses adam_learning_rate."""
    adam_learning_rate: float = 1e-3
    """Muon only: peak rate of what is not a hidden matrix (embeddings, norms, biases, adapters)."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay from the peak to final_fraction x peak at the last step."""
    warmup_steps: int = 100
    """Steps of linear rise from 0 to the peak."""
    final_fraction: float = 0.1
    """Where the schedule ends, as a share of the peak."""
    weight_decay: float = 0.1
    """Decoupled decay of matrices (adapters too) and embedding tables; of nothing else. (Muon: of
    the matrices that it orthogonalises alone.)"""
    beta1: float = 0.9
    """Decay of the mean gradient (momentum; of Muon and SGD too)."""
    beta2: float = 0.99
    """Decay of the mean squared gradient (AdamW and Lion; Muon's Adam part)."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 leaves them."""
    state_dtype: Literal["float32", "bfloat16"] = "float32"
    """How averages of gradients are kept between steps: bfloat16 halves their memory."""
    ema_decay: float = 0.0
    """Keep an average of the parameters with this decay, and evaluate and serve it; 0: none."""

    def learning_rates(self, num_steps: int) -> optax.Schedule:
        """The learning rate at every step of a run of `num_steps`."""
        return self._schedule(self.learning_rate, num_steps)

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """The optax transformation for a run of `num_steps`.

        Raises UserError naming the option for a value out of range.
        """
        self._check()
        rate, b1, b2 = self.learning_rates(num_steps), self.beta1, self.beta2
        match self.name:
            case "adamw":
                rule = optax.adamw(rate, b1, b2, weight_decay=self.weight_decay, mask=decays)
            case "lion":
                rule = optax.lion(rate, b1, b2, weight_decay=self.weight_decay, mask=decays)
            case "sgd":
                rule = optax.chain(
                    optax.add_decayed_weights(self.weight_decay, mask=decays),
                    optax.sgd(rate, momentum=b1, nesterov=True),
                )
            case "muon":
                rule = optax.contrib.muon(
                    rate,
                    beta=b1,
                    weight_decay=self.weight_decay,
                    weight_decay_mask=decays,
                    adam_b1=b1,
                    adam_b2=b2,
                    adam_learning_rate=self._schedule(self.adam_learning_rate, num_steps),
                    muon_weight_dimension_numbers=matrices,
                    # Updates as large as AdamW's (Liu et al. 2025, arXiv:2502.16982).
                    consistent_rms=0.2,
                )
        if self.state_dtype == "bfloat16":
            rule = stored_in_bfloat16(rule)
        if self.clip_norm:
            rule = optax.chain(optax.clip_by_global_norm(self.clip_norm), rule)
        return rule

    def _schedule(self, peak: float, num_steps: int) -> optax.Schedule:
        warmup = min(self.warmup_steps, num_steps - 1)
        fall_steps, end = num_steps - warmup, self.final_fraction
        match self.schedule:
            case "cosine":
                fall = optax.cosine_decay_schedule(peak, fall_steps, alpha=end)
            case "linear":
                fall = optax.linear_schedule(peak, end * peak, fall_steps)
            case "constant":
                fall = optax.constant_schedule(peak)
        if warmup == 0:
            return fall
        # The rise starts above 0: a first step at rate 0 would be wasted.
        rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
        return optax.join_schedules([rise, fall], [warmup])

    def _check(self) -> None:
        sizes = ("learning_rate", "adam_learning_rate", "weight_decay", "clip_norm")
        check_range("optimizer", self, *sizes, "warmup_steps", least=0)
        shares = ("beta1", "beta2", "final_fraction", "ema_decay")
        check_range("optimizer", self, *shares, least=0, most=1)


def decays(params: PyTree) -> PyTree:
    """True for the parameters that weight decay applies to: matrices and embedding tables."""
    names = ("kernel", "table", "lora_down", "lora_up")
    return jax.tree_util.tree_map_with_path(lambda path, _: _leaf_name(path) in names, params)


def matrices(params: PyTree) -> PyTree:
    """Which parameters Muon orthogonalises: the kernels, (D, F) in their last two axes.

    Leading axes (stacked layers) are separate matrices. Embedding tables are not matrices in this
    sense: their rows are looked up, not multiplied together.
    """

    def numbers(path: tuple, leaf: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if _leaf_name(path) != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(leaf.ndim - 2, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(numbers, params)


def _leaf_name(path: tuple) -> str:
    return path[-1].key
