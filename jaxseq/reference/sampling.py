"""Twin of `decoding.sampling`."""

import numpy as np


def probabilities(
    logits: np.ndarray,
    seen: np.ndarray | None = None,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
) -> np.ndarray:
    """How likely each token is drawn: logits (B, V) to probabilities (B, V).

    Temperature 0 is certain of the largest logit; among equals the lower number wins everywhere.
    `seen` (B, V) says which tokens are in the text already.
    """
    drawn = np.zeros(logits.shape, np.float64)
    for row in range(logits.shape[0]):
        row_logits = [float(logit) for logit in logits[row]]
        if seen is not None:
            for token, logit in enumerate(row_logits):
                if seen[row, token]:
                    less = logit / repetition_penalty if logit > 0 else logit * repetition_penalty
                    row_logits[token] = less
        order = sorted(range(len(row_logits)), key=lambda token: (-row_logits[token], token))
        if temperature == 0:
            drawn[row, order[0]] = 1.0
            continue
        if top_k:
            order = order[:top_k]
        largest = row_logits[order[0]]
        weights = [np.exp((logit - largest) / temperature) for logit in row_logits]
        total = sum(weights[token] for token in order)
        reached = 0.0
        for token in order:
            if weights[token] < min_p:  # the largest weight is 1
                break
            drawn[row, token] = weights[token] / total
            reached += weights[token] / total
            if top_p < 1.0 and reached >= top_p:
                break
        drawn[row] /= drawn[row].sum()
    return drawn
