"""Twin of `ops.matrix_memory`."""

import numpy as np


def matrix_memory(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    log_decay: np.ndarray,
    memory: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """M_t = exp(log_decay_t) M_{t-1} + k_t v_t^T and o_t = M_t^T q_t, head by head.

    query, key and value (B, T, N, H), log_decay (B, T, N), memory (B, N, H, H). Row i is read from
    0 to lengths[i] - 1, or backwards. Returns o, 0 in the padding, and the memory after the last
    step read.
    """
    batch, num_steps, heads, size = query.shape
    output = np.zeros((batch, num_steps, heads, size))
    last = np.zeros((batch, heads, size, size))
    for row, head in np.ndindex(batch, heads):
        state = last[row, head] if memory is None else memory[row, head]
        steps = range(num_steps if lengths is None else min(lengths[row], num_steps))
        for t in reversed(steps) if reverse else steps:
            gain = np.outer(key[row, t, head], value[row, t, head])
            state = np.exp(log_decay[row, t, head]) * state + gain
            output[row, t, head] = state.T @ query[row, t, head]
        last[row, head] = state
    return output, last
