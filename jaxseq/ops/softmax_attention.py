"""The mean of values under a masked softmax, with a gradient that keeps no T x S array.

    e_ts = scale * q_t . k_s   where t may look at s       l_t  = logsumexp_s(e_ts)
    p_ts = exp(e_ts - l_t), 0 elsewhere                    o_t  = sum_s p_ts v_s

Of the forward pass only q, k, v, o and l are kept; the gradient computes p again from them (Dao et
al. 2022, arXiv:2205.14135, appendix B.2):

    dv_s = sum_t p_ts do_t                   de_ts = p_ts (do_t . v_s - do_t . o_t)
    dq_t = scale * sum_s de_ts k_s           dk_s  = scale * sum_t de_ts q_t

Inside, axes are "B K G T H": G query heads share each of K key/value heads.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.ops.precision import accumulator
from jaxseq.typing import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is fixed when the op is traced.

    `lower_triangular`: no query looks at a key behind its own index. `has_padding`: some query
    may look at nothing.
    """

    scale: float
    dtype: jnp.dtype
    lower_triangular: bool
    has_padding: bool


@partial(jax.custom_vjp, nondiff_argnums=(4,))
def softmax_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    visible: Bool[Array, "#B T S"] | None,
    rule: Rule,
) -> Float[Array, "B T N H"]:
    """o of the equations above; query head n looks at key/value head n // (N / K).

    Products take operands of `rule.dtype`; a query that may look at nothing gives 0.
    """
    return _forward(query, key, value, visible, rule)[0]


def _forward(query: Array, key: Array, value: Array, visible: Array | None, rule: Rule) -> tuple:
    batch, queries, heads, head_size = query.shape
    kv_heads = key.shape[2]
    grouped = query.reshape(batch, queries, kv_heads, heads // kv_heads, head_size)
    q, k, v, output, log_sums = lax.platform_dependent(
        *(grouped, key, value, visible),
        cpu=partial(_attend, rule=rule, on_cpu=True),
        default=partial(_attend, rule=rule, on_cpu=False),
    )
    saved = (q, k, v, output.astype(rule.dtype), log_sums, visible)
    return output.astype(query.dtype).reshape(query.shape), saved


def _backward(rule: Rule, saved: tuple, doutput: Array) -> tuple[Array, Array, Array, None]:
    dquery, dkey, dvalue = lax.platform_dependent(
        *(*saved, doutput.reshape(saved[3].shape)),
        cpu=partial(_attend_gradient, rule=rule, on_cpu=True),
        default=partial(_attend_gradient, rule=rule, on_cpu=False),
    )
    dtype = doutput.dtype
    dquery = dquery.astype(dtype).reshape(doutput.shape)
    return dquery, dkey.astype(dtype), dvalue.astype(dtype), None


softmax_attention.defvjp(_forward, _backward)


def _attend(
    query: Array, key: Array, value: Array, visible: Array | None, *, rule: Rule, on_cpu: bool
) -> tuple[Array, Array, Array, Array, Array]:
    """(q, k, v in the compute dtype and heads first, o as "B T K G H", l as "B K G T")."""
    wide = accumulator(query.dtype)
    q = _lay_out(query, (0, 2, 3, 1, 4), rule, on_cpu)
    k, v = (_lay_out(x, (0, 2, 1, 3), rule, on_cpu) for x in (key, value))
    outputs, log_sums = [], []
    for start, stop, keys in _blocks(q.shape[3], k.shape[2], rule, on_cpu):
        rows = q[:, :, :, start:stop]
        scores, seen = _scores(rows, k[:, :, :keys], visible, start, rule, wide)
        largest = scores.max(axis=-1, keepdims=True, initial=jnp.finfo(wide).min)
        weights = _only(seen, jnp.exp(scores - largest))
        total = weights.sum(axis=-1, keepdims=True)
        total = jnp.where(total == 0, 1, total)
        mixed = jnp.einsum(
            "BKGTS,BKSH->BKGTH",
            weights.astype(rule.dtype),
            v[:, :, :keys],
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
    *,
    rule: Rule,
    on_cpu: bool,
) -> tuple[Array, Array, Array]:
    """(dq as "B T K G H", dk and dv as "B S K H")."""
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
    for start, stop, keys in _blocks(q.shape[3], k.shape[2], rule, on_cpu):
        rows = slice(start, stop)
        k_seen, v_seen = k[:, :, :keys], v[:, :, :keys]
        scores, seen = _scores(q[:, :, :, rows], k_seen, visible, start, rule, wide)
        weights = _only(seen, jnp.exp(scores - log_sums[:, :, :, rows, None]))
        dweights = product("BKGTH,BKSH->BKGTS", do[:, :, :, rows], v_seen)
        dscores = rule.scale * weights * (dweights - shared[:, :, :, rows])
        weights, dscores = weights.astype(rule.dtype), dscores.astype(rule.dtype)
        if on_cpu:  # each is the operand of two products: do not fuse its computation into both
            weights, dscores = lax.optimization_barrier((weights, dscores))
        dq.append(product("BKGTS,BKSH->BKGTH", dscores, k_seen))
        unseen = ((0, 0), (0, 0), (0, 0), (0, k.shape[2] - keys))
        dv += jnp.pad(product("BKHGT,BKGTS->BKHS", do_columns[..., rows], weights), unseen)
        dk += jnp.pad(product("BKHGT,BKGTS->BKHS", q_columns[..., rows], dscores), unseen)
    dquery = jnp.concatenate(dq, axis=3).transpose(0, 3, 1, 2, 4)
    return dquery, dk.transpose(0, 3, 1, 2), dv.transpose(0, 3, 1, 2)


def _scores(
    q: Array, k: Array, visible: Array | None, start: int, rule: Rule, wide: jnp.dtype
) -> tuple[Array, Array | None]:
    """e of the queries from `start` on, and which are visible where exp(e) alone cannot tell."""
    scores = rule.scale * jnp.einsum("BKGTH,BKSH->BKGTS", q, k, preferred_element_type=wide)
    if visible is None:
        return scores, None
    allowed = visible[:, None, None, start : start + q.shape[3], : k.shape[2]]
    allowed = jnp.broadcast_to(allowed, scores.shape)
    scores = jnp.where(allowed, scores, jnp.finfo(wide).min)
    return scores, allowed if rule.has_padding else None


def _only(seen: Array | None, weights: Array) -> Array:
    return weights if seen is None else jnp.where(seen, weights, 0)


def _lay_out(x: Array, axes: tuple[int, ...], rule: Rule, on_cpu: bool) -> Array:
    x = x.transpose(axes).astype(rule.dtype)
    # One copy in the order the products want; else XLA's CPU products read a strided operand.
    return lax.optimization_barrier(x) if on_cpu else x


def _blocks(queries: int, keys: int, rule: Rule, on_cpu: bool) -> list[tuple[int, int, int]]:
    """(first query, last + 1, keys they may see): on CPUs, the masked half is never computed."""
    if not (on_cpu and rule.lower_triangular and queries):
        return [(0, queries, keys)]
    size = max(128, -(-queries // 8))
    stops = [min(start + size, queries) for start in range(0, queries, size)]
    return [(start, stop, stop) for start, stop in zip(range(0, queries, size), stops, strict=True)]
