"""A linear-chain conditional random field on logits (Lafferty, McCallum and Pereira 2001)."""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxseq.errors import UserError
from jaxseq.nn.parameters import parameter
from jaxseq.ops.chain import Chain, log_partition, node_marginals, score
from jaxseq.ops.chain_constraints import (
    Allowed,
    bio_transitions,
    bioes_transitions,
    constrain,
)
from jaxseq.ops.chain_paths import k_best, viterbi
from jaxseq.typing import Array, Float, Int

Scheme = Literal["none", "bio", "bioes"]


class CRF(nn.Module):
    """A distribution over taggings y of a whole sentence instead of one over each word's tag.

        p(y | x) ~ exp(initial[y_1] + sum_t logits[t, y_t] + sum_{t<T} transitions[y_t, y_{t+1}]
                       + final[y_T])

    Parameters: transitions (C, C), initial (C,), final (C,), all zero at first, which is a softmax
    over each word by itself. C is the number of `tags`. Under scheme "bio" or "bioes" the paths
    that it forbids have probability 0, in training as in decoding.
    """

    tags: tuple[str, ...]
    scheme: Scheme = "none"

    def setup(self) -> None:
        """Declares the parameters."""
        size, zeros = len(self.tags), nn.initializers.zeros
        axes = ("classes",)
        self.transitions = parameter(self, "transitions", zeros, (*axes, *axes), (size, size))
        self.initial = parameter(self, "initial", zeros, axes, (size,))
        self.final = parameter(self, "final", zeros, axes, (size,))

    def __call__(self, logits: Float[Array, "B T C"], lengths: Int[Array, "B"]) -> Chain:
        """The same as `chain`."""
        return self.chain(logits, lengths)

    def chain(self, logits: Float[Array, "B T C"], lengths: Int[Array, "B"]) -> Chain:
        """The chain of log-potentials that `ops.chain` and `ops.chain_paths` work on."""
        chain = Chain(logits, self.transitions, self.initial[None], self.final[None], lengths)
        allowed = legality(self.tags, self.scheme)
        if allowed is None:
            return chain
        return constrain(
            chain,
            allowed_initial=allowed.initial,
            allowed_transitions=allowed.transitions,
            allowed_final=allowed.final,
        )

    def loss(
        self, logits: Float[Array, "B T C"], tags: Int[Array, "B T"], lengths: Int[Array, "B"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `negative_log_likelihood`."""
        return negative_log_likelihood(self.chain(logits, lengths), tags)

    def decode(
        self, logits: Float[Array, "B T C"], lengths: Int[Array, "B"]
    ) -> tuple[Int[Array, "B T"], Float[Array, "B"]]:
        """The best tags, 0 in the padding, and their score."""
        return viterbi(self.chain(logits, lengths))

    def k_best(
        self, logits: Float[Array, "B T C"], lengths: Int[Array, "B"], k: int
    ) -> tuple[Int[Array, "B K T"], Float[Array, "B K"]]:
        """The k best taggings, best first, and their scores; -inf where there are fewer."""
        return k_best(self.chain(logits, lengths), k)

    def marginals(
        self, logits: Float[Array, "B T C"], lengths: Int[Array, "B"]
    ) -> Float[Array, "B T C"]:
        """p(y_t = j | x) of every word, 0 in the padding."""
        return node_marginals(self.chain(logits, lengths))


def negative_log_likelihood(
    chain: Chain, tags: Int[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss as (sum, weight): sum over sequences of log Z - score(tags), and how many words.

    Weighted by words, like every loss of jaxseq, so that it stands beside the cross-entropy of
    a softmax output in the same unit: nats a word. A sequence whose tags the constraints forbid
    has no likelihood; inside `jit`, where nothing can be raised, it is left out of sum and weight.
    `check_tags` finds such sequences in the data, before training.
    """
    gold = score(chain, tags)
    likelihood = log_partition(chain) - gold
    possible = gold > -jnp.inf
    time = tags.shape[1]
    lengths = jnp.full(tags.shape[:1], time) if chain.lengths is None else chain.lengths
    words = jnp.where(possible, jnp.clip(lengths, 0, time), 0)
    return jnp.sum(jnp.where(possible, likelihood, 0)), jnp.sum(words).astype(likelihood.dtype)


def legality(tags: tuple[str, ...], scheme: Scheme) -> Allowed | None:
    """What the scheme allows, None where that is everything."""
    if scheme == "none":
        return None
    return bio_transitions(tags) if scheme == "bio" else bioes_transitions(tags)


def check_tags(
    sentences: np.ndarray, lengths: np.ndarray, tags: tuple[str, ...], scheme: Scheme
) -> None:
    """Raises UserError for the first sentence whose tags are unknown or illegal under the scheme.

    `sentences` (B, T) holds numbers of `tags`, `lengths` (B,) how many of each row count. The
    error names sentence, word (both from 1) and the tags concerned.
    """
    initial = final = np.ones(len(tags), bool)
    follows = np.ones((len(tags), len(tags)), bool)
    allowed = legality(tags, scheme)
    if allowed is not None:
        initial, follows, final = (np.asarray(each) for each in allowed)
    for b, (row, length) in enumerate(zip(sentences, lengths, strict=True)):
        row = row[:length]
        for t, tag in enumerate(row):
            place = f"sentence {b + 1}, word {t + 1}"
            if not 0 <= tag < len(tags):
                raise UserError(f"{place}: tag number {tag} is not one of {len(tags)} tags")
            mend = f"is illegal under scheme {scheme}; mend the tags or use scheme none"
            if t == 0 and not initial[tag]:
                raise UserError(f"{place}: {tags[tag]} at the start {mend}")
            if t > 0 and not follows[row[t - 1], tag]:
                raise UserError(f"{place}: {tags[tag]} after {tags[row[t - 1]]} {mend}")
            if t == length - 1 and not final[tag]:
                raise UserError(f"{place}: {tags[tag]} at the end {mend}")
