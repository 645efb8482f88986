"""A mixture of experts in place of the feed-forward layer of a Transformer."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.nn.linear import Linear
from jaxseq.nn.mlp import GATED, POINTWISE, Activation
from jaxseq.nn.parameters import parameter
from jaxseq.ops.expert_parallel import ExpertKernels, Rule, mixture
from jaxseq.ops.experts import balance_loss
from jaxseq.ops.precision import accumulator
from jaxseq.option_checks import check_range
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Experts:
    """How many feed-forward layers stand side by side, and how tokens choose among them."""

    count: int = 0
    """Experts (E); 0: one feed-forward layer for all tokens."""
    per_token: int = 2
    """Experts that each token goes to."""
    capacity_factor: float = 0.0
    """An expert takes at most ceil(factor x tokens x per_token / count) of the choices in a row of
    a batch and drops the rest; 0: it takes all."""
    balance_weight: float = 0.01
    """Weight of the loss that keeps the experts evenly used."""

    def __post_init__(self) -> None:
        """Raises UserError naming the option for values that do not fit together."""
        section = "model.experts"
        check_range(section, self, "count", "capacity_factor", "balance_weight", least=0)
        check_range(section, self, "per_token", least=1)
        if 0 < self.count < self.per_token:
            raise UserError(
                f"--{section}.per-token {self.per_token} is more than --{section}.count "
                f"{self.count}"
            )


class MixtureOfExperts(nn.Module):
    """Each token through the feed-forward layers of its likeliest experts, weighted.

        p = softmax(W_router x)        y = sum over its experts e of w_e MLP_e(x)

    (Shazeer et al. 2017, arXiv:1701.06538.) `ops.experts.route` says how the weights w come from
    p. Experts have the nonlinearities of `nn.mlp.MLP` and no biases. The balance loss, which is a
    sum over the valid tokens, times its weight is sown as "balance" in the collection "losses":
    the caller adds it to a sum of losses.
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
        config, width = self.experts, x.shape[-1]
        if valid is not None:
            x = jnp.where(valid[:, :, None], x, 0)

        # Wide and exact on every platform, for rounding would decide near ties.
        router = Linear(config.count, ("embed", "expert"), use_bias=False, name="router")
        with jax.default_matmul_precision("highest"):
            logits = router(x.astype(accumulator(x.dtype)))
        logits = constrain(logits, "batch", "time", None)

        gated = self.activation in GATED
        into = config.count, width, self.hidden
        kernels = ExpertKernels(
            tuple(
                ExpertKernel(into, ("expert", "embed", "mlp"), name=name)()
                for name in (("gate", "in") if gated else ("in",))
            ),
            ExpertKernel(
                (config.count, self.hidden, width),
                ("expert", "mlp", "embed"),
                self.output_init_scale,
                name="out",
            )(),
        )
        activation = (GATED if gated else POINTWISE)[self.activation]
        rule = Rule(config.per_token, activation, config.capacity_factor, self.dtype)
        y, probabilities, chosen = mixture(x, logits, valid, kernels, rule)
        if not self.is_initializing():
            loss = balance_loss(probabilities, chosen, valid)
            self.sow("losses", "balance", config.balance_weight * loss)
        if valid is not None:  # where y is 0 already, so is the gradient by the weights
            y = jnp.where(valid[:, :, None], y, 0)
        return y


class ExpertKernel(nn.Module):
    """The matrices of all experts for one product."""

    shape: tuple[int, int, int]
    axes: tuple[str, str, str]
    init_scale: float = 0.02

    @nn.compact
    def __call__(self) -> Float[Array, "E D F"]:
        """Returns them."""
        init = nn.initializers.normal(self.init_scale)
        return parameter(self, "kernel", init, self.axes, self.shape)
