"""Twin of `ops.recurrence`."""

import numpy as np


def linear_recurrence(
    a: np.ndarray,
    b: np.ndarray,
    h0: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    *,
    reverse: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """h_t = a_t h_{t-1} + b_t over a and b (B, T, F), real or complex, from h0 (B, F).

    Row i is read from 0 to lengths[i] - 1, or backwards. Returns all states, 0 in the padding, and
    the state after the last step read.
    """
    kind = np.complex128 if np.iscomplexobj(a) or np.iscomplexobj(b) else np.float64
    batch, num_steps, features = np.shape(a)
    h = np.zeros((batch, num_steps, features), kind)
    last = np.zeros((batch, features), kind)
    for row in range(batch):
        state = last[row] if h0 is None else np.asarray(h0[row], kind)
        steps = range(num_steps if lengths is None else min(lengths[row], num_steps))
        for t in reversed(steps) if reverse else steps:
            state = a[row, t] * state + b[row, t]
            h[row, t] = state
        last[row] = state
    return h, last
