"""A mixture of experts in place of the feed-forward layer of a Transformer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import GATED, POINTWISE, Activation
from jaxseq.nn.parameters import parameter
from jaxseq.ops.experts import (
    Dispatch,
    balance_loss,
    dispatch,
    from_experts,
    grouped_linear,
    route,
    to_experts,
)
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Experts:
    """How many feed-forward layers stand side by side, and how tokens choose among them."""

    count: int = 0
    """Experts (E); 0: one feed-forward layer for all tokens."""
    per_token: int = 2
    """Experts that each token goes to."""
    capacity_factor: float = 0.0
    """An expert takes at most ceil(factor x tokens x per_token / count) of a batch's choices and
    drops the rest; 0: it takes all."""
    balance_weight: float = 0.01
    """Weight of the loss that keeps the experts evenly used."""

    def __post_init__(self) -> None:
        """Raises UserError naming the option for values that do not fit together."""
        option = "--model.experts"
        if self.count < 0:
            raise UserError(f"{option}.count is {self.count}; it must not be negative")
        if self.per_token < 1:
            raise UserError(f"{option}.per-token is {self.per_token}; it must be at least 1")
        if 0 < self.count < self.per_token:
            raise UserError(
                f"{option}.per-token {self.per_token} is more than {option}.count {self.count}"
            )
        if self.capacity_factor < 0:
            raise UserError(
                f"{option}.capacity-factor is {self.capacity_factor}; it must not be negative"
            )
        if self.balance_weight < 0:
            raise UserError(
                f"{option}.balance-weight is {self.balance_weight}; it must not be negative"
            )


class MixtureOfExperts(nn.Module):
    """Each token through the feed-forward layers of its likeliest experts, weighted.

        p = softmax(W_router x)        y = sum over its experts e of w_e MLP_e(x)

    (Shazeer et al. 2017, arXiv:1701.06538.) `ops.experts.route` says how the weights w come from
    p. Experts have the nonlinearities of `nn.mlp.MLP` and no biases. The balance loss times its
    weight is sown as "balance" in the collection "losses".
    """

    experts: Experts
    hidden: int
    activation: Activation = "gelu"
    output_init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], valid: Bool[Array, "B T"] | None = None
    ) -> Float[Array, "B T D"]:
        """Returns the layer's output, x's shape; 0 where `valid` is False, whatever x is there."""
        tokens = x.reshape(-1, x.shape[-1])
        if valid is not None:
            valid = valid.reshape(-1)
            tokens = jnp.where(valid[:, None], tokens, 0)

        # Wide and exact on every platform, for rounding would decide near ties.
        router = Linear(self.experts.count, ("embed", "expert"), use_bias=False, name="router")
        with jax.default_matmul_precision("highest"):
            logits = router(tokens.astype(accumulator(x.dtype)))
        weights, chosen, probabilities = route(logits, self.experts.per_token)
        if not self.is_initializing():
            loss = balance_loss(probabilities, chosen, valid)
            self.sow("losses", "balance", self.experts.balance_weight * loss)

        plan = dispatch(chosen, valid, self.experts.count, self.experts.capacity_factor)
        rows = to_experts(tokens, plan)
        into, out = ("expert", "embed", "mlp"), ("expert", "mlp", "embed")

        def project(name: str) -> Float[Array, "R F"]:
            return ExpertLinear(self.hidden, into, dtype=self.dtype, name=name)(rows, plan)

        if self.activation in GATED:
            hidden = GATED[self.activation](project("gate"), project("in"))
        else:
            hidden = POINTWISE[self.activation](project("in"))
        write = ExpertLinear(x.shape[-1], out, self.output_init_scale, self.dtype, name="out")
        y = from_experts(write(hidden, plan), weights, plan)
        if valid is not None:  # where y is 0 already, so is the gradient by the weights
            y = jnp.where(valid[:, None], y, 0)
        return y.reshape(x.shape)


class ExpertLinear(nn.Module):
    """y = x W_e for the expert e that each row is with."""

    features: int
    axes: tuple[str, str, str]
    init_scale: float = 0.02
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, rows: Float[Array, "R D"], plan: Dispatch) -> Float[Array, "R F"]:
        """Maps the last axis of the rows from its size to `features`."""
        init = nn.initializers.normal(self.init_scale)
        shape = (len(plan.sizes), rows.shape[1], self.features)
        kernel = parameter(self, "kernel", init, self.axes, shape)
        return grouped_linear(rows, kernel, plan.sizes, slots=plan.slots, dtype=self.dtype)
