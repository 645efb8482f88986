"""The mean of values under a masked softmax, with a gradient that keeps no T x S array.

    e_ts = f(scale * q_t . k_s)   where t may look at s    l_t  = logsumexp_s(e_ts)
    p_ts = exp(e_ts - l_t), 0 elsewhere                    o_t  = sum_s p_ts v_s

f is the soft cap and the position bias of `attention_scores.adjusted`, or nothing.

Of the forward pass only q, k, v, o and l are kept; the gradient computes p again from them (Dao et
al. 2022, arXiv:2205.14135, appendix B.2):

    dv_s = sum_t p_ts do_t                   de_ts = f'_ts p_ts (do_t . v_s - do_t . o_t)
    dq_t = scale * sum_s de_ts k_s           dk_s  = scale * sum_t de_ts q_t

Inside, axes are "B K G T H": G query heads share each of K key/value heads.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.attention_scores import adjusted
from jaxseq.ops.position_bias import PositionBias
from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the op is traced.

    `lower_triangular`: no query looks at a key behind its own index, nor, with a `window`, at one
    that is `window` or more before it. `has_padding`: some query may look at nothing.
    """

    scale: float
    dtype: jnp.dtype
    lower_triangular: bool
    has_padding: bool
    window: int | None = None
    soft_cap: float | None = None


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def softmax_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    visible: Bool[Array, "#B T S"] | None,
    bias: PositionBias | None,
    query_start: int | Int[Array, ""],
    rule: Rule,
) -> Float[Array, "B T N H"]:
    """o of the equations above; query head n looks at key/value head n // (N / K).

    Products take operands of `rule.dtype`; a query that may look at nothing gives 0. The bias
    counts distances from `query_start`, the index of the first query among the keys.
    """
    return _forward(query, key, value, visible, bias, query_start, rule)[0]


def _forward(
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    bias: PositionBias | None,
    query_start: int | Array,
    rule: Rule,
) -> tuple:
    batch, queries, heads, head_size = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, head_size)
    q, k, v, output, log_sums = lax.platform_dependent(
        *(grouped, key, value, visible, bias, query_start),
        cpu=partial(_attend, rule=rule, on_cpu=True),
        default=partial(_attend, rule=rule, on_cpu=False),
    )
    saved = (q, k, v, output.astype(rule.dtype), log_sums, visible, bias, query_start)
    return output.astype(query.dtype).reshape(query.shape), saved


def _backward(rule: Rule, saved: tuple, doutput: Array) -> tuple:
    dquery, dkey, dvalue, dbias = lax.platform_dependent(
        *(*saved[:-2], doutput.reshape(saved[3].shape), *saved[-2:]),
        cpu=partial(_attend_gradient, rule=rule, on_cpu=True),
        default=partial(_attend_gradient, rule=rule, on_cpu=False),
    )
    dtype = doutput.dtype
    dquery = dquery.astype(dtype).reshape(doutput.shape)
    return dquery, dkey.astype(dtype), dvalue.astype(dtype), None, dbias, None


softmax_attention.defvjp(_forward, _backward)


def _attend(
    query: Array,
    key: Array,
    value: Array,
    visible: Array | None,
    bias: PositionBias | None = None,
    query_start: int | Array = 0,
    *,
    rule: Rule,
    on_cpu: bool,
) -> tuple[Array, Array, Array, Array, Array]:
    """(q, k, v in the compute dtype and heads first, o as "B T K G H", l as "B K G T")."""
    wide = accumulator(query.dtype)
    q = _lay_out(query, (0, 2, 3, 1, 4), rule, on_cpu)
    k, v = (_lay_out(x, (0, 2, 1, 3), rule, on_cpu) for x in (key, value))
    outputs, log_sums = [], []
    for rows, keys in _blocks(q.shape[3], k.shape[2], rule, on_cpu):
        raw = _products(q[:, :, :, rows], k[:, :, keys], rule, wide)
        adjust = _adjustment(query_start, rows, keys, rule)
        scores, seen = _only_visible(adjust(raw, bias), visible, rows, keys, rule)
        largest = scores.max(axis=-1, keepdims=True, initial=jnp.finfo(wide).min)
        weights = _only(seen, jnp.exp(scores - largest))
        total = weights.sum(axis=-1, keepdims=True)
        total = jnp.where(total == 0, 1, total)
        mixed = jnp.einsum(
            "BKGTS,BKSH->BKGTH",
            weights.astype(rule.dtype),
            v[:, :, keys],
            preferred_element_type=wide,
        )
        outputs.append(mixed / total)
        log_sums.append((largest + jnp.log(total))[..., 0])
    output = jnp.concatenate(outputs, axis=3).transpose(0, 3, 1, 2, 4)
    return q, k, v, output, jnp.concatenate(log_sums, axis=3)


def _attend_gradient(
    q: Array,
    k: Array,
    v: Array,
    output: Array,
    log_sums: Array,
    visible: Array | None,
    doutput: Array,
    bias: PositionBias | None = None,
    query_start: int | Array = 0,
    *,
    rule: Rule,
    on_cpu: bool,
) -> tuple[Array, Array, Array, Any]:
    """(dq as "B T K G H", dk and dv as "B S K H", the gradient of the bias)."""
    wide = log_sums.dtype
    product = partial(jnp.einsum, preferred_element_type=wide)
    doutput = doutput.astype(wide)
    # Sums over t are fastest with t last on the left and next to last on the right.
    q_columns = _lay_out(q, (0, 1, 4, 2, 3), rule, on_cpu)
    do_columns = _lay_out(doutput, (0, 2, 4, 3, 1), rule, on_cpu)
    do = _lay_out(doutput, (0, 2, 3, 1, 4), rule, on_cpu)
    output = output.transpose(0, 2, 3, 1, 4).astype(wide)
    shared = (do.astype(wide) * output).sum(axis=-1, keepdims=True)

    dq, dk, dv = [], jnp.zeros((), wide), jnp.zeros((), wide)
    dbias = jax.tree.map(jnp.zeros_like, bias)
    for rows, keys in _blocks(q.shape[3], k.shape[2], rule, on_cpu):
        k_seen, v_seen = k[:, :, keys], v[:, :, keys]
        raw = _products(q[:, :, :, rows], k_seen, rule, wide)
        scores, pull = jax.vjp(_adjustment(query_start, rows, keys, rule), raw, bias)
        scores, seen = _only_visible(scores, visible, rows, keys, rule)
        weights = _only(seen, jnp.exp(scores - log_sums[:, :, :, rows, None]))
        dweights = product("BKGTH,BKSH->BKGTS", do[:, :, :, rows], v_seen)
        dscores, more = pull(weights * (dweights - shared[:, :, :, rows]))
        dbias = jax.tree.map(jnp.add, dbias, more)
        weights, dscores = weights.astype(rule.dtype), (rule.scale * dscores).astype(rule.dtype)
        if on_cpu:  # each is the operand of two products: do not fuse its computation into both
            weights, dscores = lax.optimization_barrier((weights, dscores))
        dq.append(product("BKGTS,BKSH->BKGTH", dscores, k_seen))
        unseen = ((0, 0), (0, 0), (0, 0), (keys.start, k.shape[2] - keys.stop))
        dv += jnp.pad(product("BKHGT,BKGTS->BKHS", do_columns[..., rows], weights), unseen)
        dk += jnp.pad(product("BKHGT,BKGTS->BKHS", q_columns[..., rows], dscores), unseen)
    dquery = jnp.concatenate(dq, axis=3).transpose(0, 3, 1, 2, 4)
    return dquery, dk.transpose(0, 3, 1, 2), dv.transpose(0, 3, 1, 2), dbias


def _products(q: Array, k: Array, rule: Rule, wide: jnp.dtype) -> Array:
    return rule.scale * jnp.einsum("BKGTH,BKSH->BKGTS", q, k, preferred_element_type=wide)


def _adjustment(query_start: int | Array, rows: slice, keys: slice, rule: Rule) -> Any:
    """Soft cap and bias of one block, as a function of raw scores and the bias."""
    start = query_start + (rows.start - keys.start)
    return lambda raw, bias: adjusted(raw, bias, start, rule.soft_cap)


def _only_visible(
    scores: Array, visible: Array | None, rows: slice, keys: slice, rule: Rule
) -> tuple[Array, Array | None]:
    """e of a block, and which are visible where exp(e) alone cannot tell."""
    if visible is None:
        return scores, None
    allowed = jnp.broadcast_to(visible[:, None, None, rows, keys], scores.shape)
    scores = jnp.where(allowed, scores, jnp.finfo(scores.dtype).min)
    return scores, allowed if rule.has_padding else None


def _only(seen: Array | None, weights: Array) -> Array:
    return weights if seen is None else jnp.where(seen, weights, 0)


def _lay_out(x: Array, axes: tuple[int, ...], rule: Rule, on_cpu: bool) -> Array:
    x = x.transpose(axes).astype(rule.dtype)
    # One copy in the order the products want; else XLA's CPU products read a strided operand.
    return lax.optimization_barrier(x) if on_cpu else x


def _blocks(queries: int, keys: int, rule: Rule, on_cpu: bool) -> list[tuple[slice, slice]]:
    """(queries, keys they may see): on CPUs, what causality and a window mask is left out."""
    if not (on_cpu and rule.lower_triangular and queries):
        return [(slice(0, queries), slice(0, keys))]
    size = max(128, -(-queries // 8))
    blocks = []
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        first = 0 if rule.window is None else max(0, start - rule.window + 1)
        blocks.append((slice(start, stop), slice(first, stop)))
    return blocks
