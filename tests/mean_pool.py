"""The smallest classifier that can be: the mean of its tokens' embeddings, and a linear map.

Tasks take any config that offers what theirs asks for; this one stands for a fork's own.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class MeanPoolConfig:
    """A classifier of texts, or, of each token by itself, a tagger."""

    width: int = 8
    vocab_size: int = 0
    context: int = 0
    num_labels: int = 0

    def resolve(self, *, vocab_size, context, num_labels=0):
        """The config with the sizes of the data filled in; it has no positions."""
        return dataclasses.replace(
            self, vocab_size=vocab_size, num_labels=self.num_labels or num_labels
        )

    def build(self, head, deterministic=True):
        """The module for "classification" or "tagging"."""
        return MeanPool(self, head == "classification")


class MeanPool(nn.Module):
    """tokens (B T) -> logits (B C), or (B T C) where not `pooled`."""

    config: MeanPoolConfig
    pooled: bool

    @nn.compact
    def __call__(self, tokens, *, types=None, segments=None):
        valid = jnp.ones(tokens.shape, bool) if segments is None else segments > 0
        hidden = nn.Embed(self.config.vocab_size, self.config.width)(jnp.where(valid, tokens, 0))
        if self.pooled:
            count = jnp.maximum(valid.sum(axis=1), 1)[:, None]
            hidden = jnp.where(valid[..., None], hidden, 0).sum(axis=1) / count
        return nn.Dense(self.config.num_labels)(hidden)
