"""How a recurrent decoder looks at its encoder: scores, their softmax over the source, coverage.

The contract:

- `visible` is True where a source position holds something. Padded keys and values, NaN and
  infinity included, must have gone through `hide_padding`, once for all steps of a decoder; then
  they change no output and no gradient.
- A row with nothing to see has weights and context exactly 0, and takes and gives gradient 0.

A decoder that asks for one context at a time has T = 1.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.attention import masked_softmax
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float


def hide_padding(x: Float[Array, "B S D"], visible: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
    """x with exactly 0, and gradient 0, where nothing is visible."""
    return jnp.where(visible[..., None], x, 0)


def dot_scores(query: Float[Array, "B T D"], keys: Float[Array, "B S D"]) -> Float[Array, "B T S"]:
    """Multiplicative scores e_ts = h_t^T k_s (Luong et al. 2015, arXiv:1508.04025).

    Luong's "dot" has k_s = m_s, the encoder's output; his "general" has k_s = W m_s. Summed and
    returned in float32 or wider.
    """
    wide = accumulator(query.dtype)
    return jnp.einsum("BTD,BSD->BTS", query, keys, preferred_element_type=wide)


def additive_scores(
    query: Float[Array, "B T A"], keys: Float[Array, "B S A"], v: Float[Array, "A"]
) -> Float[Array, "B T S"]:
    """Additive scores e_ts = v^T tanh(q_t + k_s) (Bahdanau et al. 2014, arXiv:1409.0473).

    There q_t = W h_t and k_s = U m_s. Luong's "concat", v^T tanh(W [h_t; m_s]), is the same with W
    cut in two. What a score knows beside the content is added to the keys: the `location_features`
    of Chorowski et al. (2015, arXiv:1506.07503), U m_s + V f_ts, or the coverage of See et al.
    (2017, arXiv:1704.04368), U m_s + w c_ts. Summed and returned in float32 or wider.
    """
    wide = accumulator(query.dtype)
    return _additive(query.astype(wide), keys.astype(wide), v.astype(wide))


def attend(
    scores: Float[Array, "B T S"], values: Float[Array, "B S D"], visible: Bool[Array, "B S"]
) -> tuple[Float[Array, "B T D"], Float[Array, "B T S"]]:
    """The context of each query and the weights (its alignment), in the dtype of the values.

    a_t = softmax over the visible s of e_ts        c_t = sum_s a_ts m_s
    """
    weights = masked_softmax(scores, visible[:, None])
    wide = weights.dtype
    context = jnp.einsum("BTS,BSD->BTD", weights, values.astype(wide), preferred_element_type=wide)
    return context.astype(values.dtype), weights.astype(values.dtype)


def location_features(
    alignment: Float[Array, "B S"], kernel: Float[Array, "W C"]
) -> Float[Array, "B S C"]:
    """Where the decoder looked before: f_s = sum_w F_w a_{s + w - W // 2}, with a = 0 outside.

    Chorowski et al. (2015, arXiv:1506.07503, equation 8) take the last alignment for a, Shen et
    al. (2017, arXiv:1712.05884) the sum of all before.
    """
    taps, length = kernel.shape[0], alignment.shape[1]
    wide = accumulator(alignment.dtype)
    padded = jnp.pad(alignment, ((0, 0), (taps // 2, taps - 1 - taps // 2)))
    # A product of shifted copies: inside a loop over steps XLA's convolution, and its gradient
    # above all, is several times slower on CPUs.
    windows = jnp.stack([padded[:, w : w + length] for w in range(taps)], axis=-1)
    return jnp.matmul(windows, kernel.astype(wide), preferred_element_type=wide).astype(
        padded.dtype
    )


def coverage_loss(
    weights: Float[Array, "B T S"], mask: Bool[Array, "B T"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """What looking twice at one place costs (See et al. 2017, arXiv:1704.04368, equation 12).

        sum    = sum over valid t, sum_s  min(a_ts, sum_{u < t} a_us)
        weight = number of valid t

    `mask` is True where a target counts; the weights of other targets, NaN included, are taken for
    0. Computed in float32 or wider.
    """
    wide = weights.astype(accumulator(weights.dtype))
    wide = jnp.where(mask[..., None], wide, 0)
    covered = jnp.cumsum(wide, axis=1) - wide
    return jnp.sum(jnp.minimum(wide, covered)), jnp.sum(mask, dtype=wide.dtype)


# --- Additive scores -----------------------------------------------------------------------------


@jax.custom_vjp
def _additive(query: Array, keys: Array, v: Array) -> Array:
    """v^T tanh(q_t + k_s), with a gradient rule because the derived one keeps B T S A numbers.

    Ours keeps the arguments alone and computes the hidden layer again.
    """
    return _additive_forward(query, keys, v)[0]


def _additive_forward(query: Array, keys: Array, v: Array) -> tuple[Array, tuple]:
    scores = lax.platform_dependent(
        query, keys, v, cpu=_additive_by_query, default=_additive_at_once
    )
    return scores, (query, keys, v)


def _additive_backward(saved: tuple, dscores: Array) -> tuple[Array, Array, Array]:
    return lax.platform_dependent(
        *(*saved, dscores), cpu=_additive_gradient_by_query, default=_additive_gradient_at_once
    )


_additive.defvjp(_additive_forward, _additive_backward)


def _additive_at_once(query: Array, keys: Array, v: Array) -> Array:
    return jnp.einsum("BTSA,A->BTS", jnp.tanh(query[:, :, None] + keys[:, None]), v)


def _additive_gradient_at_once(
    query: Array, keys: Array, v: Array, dscores: Array
) -> tuple[Array, Array, Array]:
    _, pullback = jax.vjp(_additive_at_once, query, keys, v)
    return pullback(dscores)


# On CPUs one query after the other: what one of them makes stays in the cache.


def _additive_by_query(query: Array, keys: Array, v: Array) -> Array:
    def score(_, query):
        hidden = jnp.tanh(query[:, None] + keys)
        return None, jnp.einsum("BSA,A->BS", hidden, v)

    return lax.scan(score, None, query.swapaxes(0, 1))[1].swapaxes(0, 1)


def _additive_gradient_by_query(
    query: Array, keys: Array, v: Array, dscores: Array
) -> tuple[Array, Array, Array]:
    """dq_t = v * sum_s g_ts, dk_s = v * sum_t g_ts, dv = sum_ts de_ts tanh_ts,

    where g_ts = de_ts (1 - tanh_ts^2).
    """

    def add(sums, step):
        dkeys, dv = sums
        query, dscores = step
        # The barrier keeps XLA from computing tanh once for each of its uses.
        hidden = lax.optimization_barrier(jnp.tanh(query[:, None] + keys))
        dv = dv + jnp.einsum("BS,BSA->A", dscores, hidden)
        dsum = dscores[..., None] * (1 - hidden * hidden)
        return (dkeys + dsum, dv), dsum.sum(axis=1)

    steps = query.swapaxes(0, 1), dscores.swapaxes(0, 1)
    (dkeys, dv), dquery = lax.scan(add, (jnp.zeros_like(keys), jnp.zeros_like(v)), steps)
    return (dquery * v[None, None]).swapaxes(0, 1), dkeys * v[None, None], dv
