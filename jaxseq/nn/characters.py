"""A vector for a word out of its characters."""

import flax.linen as nn
import jax.numpy as jnp

from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.recurrent import RecurrentStack
from jaxseq.typing import Array, Float, Int


class CharacterCNN(nn.Module):
    """The largest answer of each of `features` filters over any three characters in a row
    (Ma and Hovy 2016, arXiv:1603.01354).

        y_f = max over t of  b_f + sum over o in {-1, 0, 1} of  K_fo . E[characters[t + o]]

    Character 0 ends a word, and has a vector of its own for what stands outside of it; a word
    without characters gives 0.
    """

    num_characters: int
    features: int
    embedding_width: int = 32
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, characters: Int[Array, "*B W"]) -> Float[Array, "*B F"]:
        """Returns a vector for each word; W is the characters of the longest one."""
        axes = ("vocab", "embed")
        table = Embedding(self.num_characters, self.embedding_width, axes, name="embedding")
        edge = [(0, 0)] * (characters.ndim - 1) + [(1, 1)]
        x = table(jnp.pad(characters, edge))
        width = characters.shape[-1]
        around = jnp.concatenate([x[..., o : o + width, :] for o in range(3)], axis=-1)
        scale = (3 * self.embedding_width) ** -0.5
        filters = Linear(
            self.features, ("embed", "mlp"), init_scale=scale, dtype=self.dtype, name="filters"
        )
        inside = (characters > 0)[..., None]
        y = jnp.where(inside, filters(around), jnp.finfo(x.dtype).min).max(axis=-2)
        return jnp.where(inside.any(axis=-2), y, 0)


class CharacterLSTM(nn.Module):
    """The last states of an LSTM over the characters, one forwards and one backwards
    (Lample et al. 2016, arXiv:1603.01360). `features`, even, is the size of both together.
    """

    num_characters: int
    features: int
    embedding_width: int = 32
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, characters: Int[Array, "*B W"]) -> Float[Array, "*B F"]:
        """Returns a vector for each word, 0 for one without characters."""
        leading, width = characters.shape[:-1], characters.shape[-1]
        words = characters.reshape(-1, width)
        axes = ("vocab", "embed")
        x = Embedding(self.num_characters, self.embedding_width, axes, name="embedding")(words)
        lengths = (words > 0).sum(axis=-1)
        half = self.features // 2
        both = RecurrentStack("lstm", half, bidirectional=True, dtype=self.dtype, name="lstm")
        y, _ = both(x, lengths=lengths)
        last = jnp.arange(width)[None] == (lengths - 1)[:, None]
        forwards = jnp.where(last[..., None], y[..., :half], 0).sum(axis=1)
        return jnp.concatenate([forwards, y[:, 0, half:]], axis=-1).reshape(*leading, -1)
