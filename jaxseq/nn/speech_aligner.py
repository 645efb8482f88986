"""Which token each frame of a recording speaks, learned beside the model that needs to know."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.convolution_stack import ConvolutionStack
from jaxseq.nn.linear import Linear
from jaxseq.ops.padding import valid_steps_of
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Float, Int

UNLIKELY = -1e9


class SpeechAligner(nn.Module):
    """Scores log p(token s | frame t) + log prior_ts, by the distance of codes.

        k_v = W_k e_v + b_k  of each token v of the vocabulary
        q_t = W_q x_t + b_q  of each frame, x = LayerNorm(gelu(convolution(mels)))
        log p_tv = log softmax over v of  -|q_t - k_v|^2 / A

    A is `features`, so that the scores start with a spread well below 1 and the prior alone says
    where the diagonal is. `ops.monotonic_alignment.forward_sum_loss` of the scores teaches it
    (Badlani et al. 2021, arXiv:2108.10447).

    The paper's softmax is over the tokens of the text, and its codes know their neighbours. There
    the loss falls to 0 with boundaries anywhere: it is enough to tell a token from the few others
    of its text, by its place if need be. Here a sound must be told from all others, whatever the
    text, as in the acoustic model of a recogniser. On 32 made-up texts of 4 tokens with silences
    the boundaries came to stand 0.7 frames beside the truth, with the softmax over the text 2.2.
    """

    features: int
    kernel: int = 3
    dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(
        self,
        table: Float[Array, "V D"],
        tokens: Int[Array, "B S"],
        token_lengths: Int[Array, "B"],
        log_mels: Float[Array, "B T M"],
        mel_lengths: Int[Array, "B"],
        log_prior: Float[Array, "B T S"],
    ) -> Float[Array, "B T S"]:
        """The scores, of vectors e in `table`; `UNLIKELY` in the padding of text or frames."""

        def code(name: str, x: Array) -> Array:
            axes, scale = ("embed", "mlp"), x.shape[-1] ** -0.5
            return Linear(self.features, axes, True, scale, self.dtype, name=name)(x)

        keys = code("key", table)
        layers = ConvolutionStack(self.features, 1, self.kernel, dtype=self.dtype, name="frames")
        queries = code("query", layers(log_mels, mel_lengths))
        wide = accumulator(queries.dtype)
        keys, queries = keys.astype(wide), queries.astype(wide)
        # |q_t|^2 is the same for all v, and no part of the softmax.
        scores = 2 * jnp.einsum("BTA,VA->BTV", queries, keys) - (keys * keys).sum(-1)[None, None]
        log_probs = jax.nn.log_softmax(scores / self.features, axis=-1)

        is_token = valid_steps_of(tokens, token_lengths)
        valid = valid_steps_of(log_mels, mel_lengths)[:, :, None] & is_token[:, None]
        spoken = jnp.broadcast_to(jnp.where(is_token, tokens, 0)[:, None], valid.shape)
        log_probs = jnp.take_along_axis(log_probs, spoken, axis=2)
        return jnp.where(valid, log_probs + log_prior, UNLIKELY)
