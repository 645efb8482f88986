"""Twin of `ops.experts`, `ops.expert_parallel` and `nn.experts`."""

from typing import Any

import numpy as np

from jaxseq.reference.linear import linear
from jaxseq.reference.mlp import mlp


def route(logits: np.ndarray, per_token: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights (B, T, k), experts (B, T, k), probabilities (B, T, E)) of logits (B, T, E).

    w is p of the likeliest experts divided by its sum over them; of a single one, p itself.
    """
    logits = np.asarray(logits, np.float64)
    weights = np.zeros((*logits.shape[:2], per_token))
    experts = np.zeros(weights.shape, int)
    probabilities = np.zeros_like(logits)
    for b, t in np.ndindex(*logits.shape[:2]):
        p = np.exp(logits[b, t] - np.max(logits[b, t]))
        p = p / np.sum(p)
        best = np.argsort(-p, kind="stable")[:per_token]
        probabilities[b, t], experts[b, t] = p, best
        weights[b, t] = p[best] / np.sum(p[best]) if per_token > 1 else p[best]
    return weights, experts, probabilities


def balance_loss(probabilities: np.ndarray, experts: np.ndarray, valid: np.ndarray) -> float:
    """Each row's E sum_e (share of the choices on e) (mean probability of e), times its tokens."""
    count = probabilities.shape[2]
    total = 0.0
    for p, chosen, there in zip(probabilities, experts, valid, strict=True):
        if np.any(there):
            uneven = [np.mean(chosen[there] == e) * np.mean(p[there, e]) for e in range(count)]
            total += np.sum(there) * count * sum(uneven)
    return total


def kept_choices(
    experts: np.ndarray, valid: np.ndarray, count: int, capacity_factor: float
) -> np.ndarray:
    """(B, T, k): which choices an expert takes: no padding, and its capacity (if not 0) of a row.

    All first choices of a row come before all second ones, earlier tokens before later ones.
    """
    num_rows, _, per_token = experts.shape
    kept = np.zeros(experts.shape, bool)
    # In float32, so that this and the op round to the same whole number.
    share = np.float32(capacity_factor * per_token / count)
    for b in range(num_rows):
        capacity = np.ceil(share * np.float32(np.sum(valid[b])))
        taken = np.zeros(count, int)
        for j in range(per_token):
            for t in np.flatnonzero(valid[b]):
                e = experts[b, t, j]
                if not capacity_factor or taken[e] < capacity:
                    kept[b, t, j] = True
                    taken[e] += 1
    return kept


def mixture_of_experts(
    params: dict[str, Any],
    x: np.ndarray,
    valid: np.ndarray,
    experts: Any,
    activation: str = "gelu",
) -> tuple[np.ndarray, float]:
    """(y, weighted balance loss) for x (B, T, D) and valid (B, T); y is 0 in the padding.

    y_t = sum_j w_tj MLP_e(x_t) over the choices e = e_tj that are taken. `experts` has the fields
    of `nn.experts.Experts`.
    """
    x = np.where(valid[:, :, None], x, 0)
    weights, chosen, probabilities = route(linear(x, **params["router"]), experts.per_token)
    kept = kept_choices(chosen, valid, experts.count, experts.capacity_factor)
    names = [name for name in ("in", "gate", "out") if name in params]
    y = np.zeros(x.shape)
    for b, t, j in np.argwhere(kept):
        expert = {name: {"kernel": params[name]["kernel"][chosen[b, t, j]]} for name in names}
        y[b, t] += weights[b, t, j] * mlp(expert, x[b, t], activation=activation)
    return y, experts.balance_weight * balance_loss(probabilities, chosen, valid)
