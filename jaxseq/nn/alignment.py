"""Attention of a recurrent decoder over its encoder's outputs."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from flax.struct import PyTreeNode

from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import parameter
from jaxseq.ops.alignment import (
    additive_scores,
    attend,
    dot_scores,
    hide_padding,
    location_features,
)
from jaxseq.ops.padding import valid_steps_of
from jaxseq.typing import Array, Bool, Float, Int

AlignmentKind = Literal["none", "additive", "dot", "general", "concat", "location", "coverage"]
# These score a place by where the decoder looked before, and so go one step at a time.
SEQUENTIAL: tuple[AlignmentKind, ...] = ("location", "coverage")


class Memory(PyTreeNode):
    """What a decoder looks at, made ready once: values and keys are 0 where nothing is visible."""

    values: Float[Array, "B S D"]
    keys: Float[Array, "B S A"]
    visible: Bool[Array, "B S"]


class Alignment(nn.Module):
    """Scores every source position against a query; the context is the mean they weigh.

        a_s = softmax over valid s of e_s        c = sum_s a_s m_s

    | kind | score e_s of query h and memory m_s | paper |
    |---|---|---|
    | additive | v^T tanh(W h + b + U m_s) | Bahdanau et al. 2014, arXiv:1409.0473 |
    | concat | the same: v^T tanh(W [h; m_s] + b) with W cut in two | Luong et al. 2015 |
    | dot | h^T m_s | Luong et al. 2015, arXiv:1508.04025 |
    | general | h^T W m_s | Luong et al. 2015 |
    | location | v^T tanh(W h + b + U m_s + V f_s) | Chorowski et al. 2015, arXiv:1506.07503 |
    | coverage | v^T tanh(W h + b + U m_s + w p_s) | See et al. 2017, arXiv:1704.04368 |
    | none | no score: a = 0 and c = 0 | Sutskever et al. 2014, arXiv:1409.3215 |

    p is the past: the sum of the weights of all steps before; f its convolution with
    `location_channels` filters over `location_width` places (Shen et al. 2017, arXiv:1712.05884;
    Chorowski et al. convolve the last weights alone).

    `features` is the size of what is scored: A of v for the additive kinds, the query's size for
    "general"; "dot" and "none" have no parameters and do not use it.
    """

    kind: AlignmentKind
    features: int
    location_width: int = 31
    location_channels: int = 32
    dtype: jnp.dtype | None = None

    def setup(self) -> None:
        """Creates the parameters of the kind."""
        if self.kind in ("none", "dot"):
            return
        scale = self.features**-0.5
        axes = ("embed", "mlp")
        self.memory = Linear(self.features, axes, False, scale, self.dtype)
        if self.kind == "general":
            return
        self.query = Linear(self.features, axes, True, scale, self.dtype)
        init = nn.initializers.normal(scale)
        self.v = parameter(self, "v", init, ("mlp",), (self.features,))
        if self.kind == "location":
            # Filters are few and small: every device has them whole.
            shape = (self.location_width, self.location_channels)
            init_filters = nn.initializers.normal(self.location_width**-0.5)
            self.filters = parameter(self, "filters", init_filters, ("position", "norm"), shape)
            shape = (self.location_channels, self.features)
            init_channels = nn.initializers.normal(self.location_channels**-0.5)
            self.location = parameter(self, "location", init_channels, ("norm", "mlp"), shape)
        if self.kind == "coverage":
            self.coverage = parameter(self, "coverage", init, ("mlp",), (self.features,))

    def project(
        self, memory: Float[Array, "B S D"], lengths: Int[Array, "B"] | None = None
    ) -> Memory:
        """The keys of all source positions, computed once for all steps of a decoder.

        Whatever stands in `memory` from `lengths` on, NaN included, is never seen.
        """
        visible = valid_steps_of(memory, lengths)
        if lengths is not None:
            memory = hide_padding(memory, visible)
        keys = memory if self.kind in ("none", "dot") else self.memory(memory)
        return Memory(memory, keys, visible)

    def __call__(
        self, query: Float[Array, "B T Q"], memory: Memory
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B T S"]]:
        """Contexts and weights of T queries at once, for the kinds that need no past.

        Raises ValueError for a kind that does, and for "dot" and "general" when the query is not
        of the keys' size.
        """
        if self.kind in SEQUENTIAL:
            raise ValueError(f"kind '{self.kind}' needs the weights before: call step")
        if self.kind == "none":
            (batch, places, width), times = memory.values.shape, query.shape[1]
            dtype = memory.values.dtype
            return jnp.zeros((batch, times, width), dtype), jnp.zeros((batch, times, places), dtype)
        return attend(self._scores(query, memory.keys), memory.values, memory.visible)

    def step(
        self, query: Float[Array, "B Q"], memory: Memory, past: Float[Array, "B S"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B S"], Float[Array, "B S"]]:
        """Context, weights and the new past of one query; the first past is zeros."""
        if self.kind not in SEQUENTIAL:
            context, weights = self(query[:, None], memory)
            return context[:, 0], weights[:, 0], past + weights[:, 0]
        keys = memory.keys
        if self.kind == "location":
            # One product with what V makes of each filter, which no step changes.
            keys = keys + location_features(past, self.filters @ self.location)
        if self.kind == "coverage":
            keys = keys + past[:, :, None] * self.coverage[None, None].astype(past.dtype)
        scores = self._scores(query[:, None], keys)
        context, weights = attend(scores, memory.values, memory.visible)
        return context[:, 0], weights[:, 0], past + weights[:, 0]

    def _scores(self, query: Array, keys: Array) -> Array:
        if self.kind not in ("dot", "general"):
            return additive_scores(self.query(query), keys, self.v)
        if query.shape[-1] != keys.shape[-1]:
            raise ValueError(
                f"kind '{self.kind}' multiplies queries of size {query.shape[-1]} with keys of "
                f"size {keys.shape[-1]}; they must be equal"
            )
        return dot_scores(query, keys)
