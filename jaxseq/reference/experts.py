"""Twin of `ops.experts` and `nn.experts`."""

from typing import Any

import numpy as np

from jaxseq.reference.linear import linear
from jaxseq.reference.mlp import mlp


def route(logits: np.ndarray, per_token: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weights (N, k), experts (N, k), probabilities (N, E)) of logits (N, E).

    w is p of the likeliest experts divided by its sum over them; of a single one, p itself.
    """
    logits = np.asarray(logits, np.float64)
    weights = np.zeros((len(logits), per_token))
    experts = np.zeros((len(logits), per_token), int)
    probabilities = np.zeros_like(logits)
    for n, row in enumerate(logits):
        p = np.exp(row - np.max(row))
        probabilities[n] = p / np.sum(p)
        experts[n] = np.argsort(-probabilities[n], kind="stable")[:per_token]
        weights[n] = probabilities[n, experts[n]]
        if per_token > 1:
            weights[n] /= np.sum(weights[n])
    return weights, experts, probabilities


def balance_loss(probabilities: np.ndarray, experts: np.ndarray, valid: np.ndarray) -> float:
    """E sum_e (share of the choices on e) (mean probability of e), over the valid tokens."""
    if not np.any(valid):
        return 0.0
    count = probabilities.shape[1]
    chosen = experts[valid].reshape(-1)
    return count * sum(
        np.mean(chosen == e) * np.mean(probabilities[valid, e]) for e in range(count)
    )


def kept_choices(
    experts: np.ndarray, valid: np.ndarray, count: int, capacity_factor: float
) -> np.ndarray:
    """(N, k): which choices an expert takes: no padding, and no more than its capacity if not 0.

    All first choices come before all second ones, earlier tokens before later ones.
    """
    num_tokens, per_token = experts.shape
    # In float32, so that this and the op round to the same whole number.
    share = np.float32(capacity_factor * per_token / count)
    capacity = np.ceil(share * np.float32(np.sum(valid)))
    taken = np.zeros(count, int)
    kept = np.zeros((num_tokens, per_token), bool)
    for j in range(per_token):
        for n in np.flatnonzero(valid):
            e = experts[n, j]
            if not capacity_factor or taken[e] < capacity:
                kept[n, j] = True
                taken[e] += 1
    return kept


def grouped_linear(x: np.ndarray, kernel: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """y_r = x_r W_e: sizes[0] rows of group 0, then sizes[1] of group 1, ...; 0 behind them."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    y = np.zeros((len(x), kernel.shape[2]))
    start = 0
    for e, size in enumerate(sizes):
        y[start : start + size] = x[start : start + size] @ kernel[e]
        start += size
    return y


def mixture_of_experts(
    params: dict[str, Any],
    x: np.ndarray,
    valid: np.ndarray,
    experts: Any,
    activation: str = "gelu",
) -> tuple[np.ndarray, float]:
    """(y, weighted balance loss) for x (B, T, D) and valid (B, T); y is 0 in the padding.

    y_n = sum_j w_nj MLP_e(x_n) over the choices e = e_nj that are taken. `experts` has the fields
    of `nn.experts.Experts`.
    """
    tokens, valid = x.reshape(-1, x.shape[-1]), valid.reshape(-1)
    tokens = np.where(valid[:, None], tokens, 0)
    weights, chosen, probabilities = route(linear(tokens, **params["router"]), experts.per_token)
    kept = kept_choices(chosen, valid, experts.count, experts.capacity_factor)
    names = [name for name in ("in", "gate", "out") if name in params]
    y = np.zeros(tokens.shape)
    for n, j in np.argwhere(kept):
        expert = {name: {"kernel": params[name]["kernel"][chosen[n, j]]} for name in names}
        y[n] += weights[n, j] * mlp(expert, tokens[n], activation=activation)
    balance = experts.balance_weight * balance_loss(probabilities, chosen, valid)
    return y.reshape(x.shape), balance
