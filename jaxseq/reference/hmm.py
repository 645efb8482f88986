"""Twin of `models.hmm`, `models.hmm_emissions` and `models.hmm_fit`: one sequence at a time, logs.

Everything is a log-probability, so hard zeros (-inf) and a likelihood of e^-10000 are exact. Loops
run over time; states are vectors. initial (C,), transitions (C, C), log_likelihoods (T, C).
"""

from itertools import pairwise, product

import numpy as np


def logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    """log of the sum of exp(x), -inf where all of x is."""
    largest = np.max(x, axis=axis, keepdims=True)
    shift = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        total = np.log(np.sum(np.exp(x - shift), axis=axis))
    return np.asarray(np.squeeze(shift, axis) + total)


def categorical(observations: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Log-likelihoods (T, C) of symbols (T,) under log_probs (C, V)."""
    return log_probs[:, observations].T


def gaussian(observations: np.ndarray, means: np.ndarray, covariances: np.ndarray) -> np.ndarray:
    """Log-likelihoods (T, C) of vectors (T, D) under means (C, D) and covariances (C, D, D)."""
    table = np.zeros((len(observations), len(means)))
    for t, x in enumerate(observations):
        for c, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            distance = (x - mean) @ np.linalg.solve(covariance, x - mean)
            determinant = np.linalg.slogdet(covariance)[1]
            table[t, c] = -0.5 * (distance + determinant + len(x) * np.log(2 * np.pi))
    return table


def forward(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> np.ndarray:
    """log p(z_t, x_1, ..., x_t), (T, C)."""
    alpha = np.zeros(log_likelihoods.shape)
    for t in range(len(alpha)):
        arrive = initial if t == 0 else logsumexp(alpha[t - 1][:, None] + transitions, axis=0)
        alpha[t] = arrive + log_likelihoods[t]
    return alpha


def backward(transitions: np.ndarray, log_likelihoods: np.ndarray) -> np.ndarray:
    """log p(x_{t+1}, ..., x_T | z_t), (T, C)."""
    beta = np.zeros(log_likelihoods.shape)
    for t in range(len(beta) - 2, -1, -1):
        beta[t] = logsumexp(transitions + (log_likelihoods[t + 1] + beta[t + 1])[None], axis=1)
    return beta


def log_likelihood(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> float:
    """log p(x); 0 for no observations."""
    if len(log_likelihoods) == 0:
        return 0.0
    return float(logsumexp(forward(initial, transitions, log_likelihoods)[-1], axis=0))


def filtered(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> np.ndarray:
    """p(z_t | x_1, ..., x_t), (T, C)."""
    alpha = forward(initial, transitions, log_likelihoods)
    return np.exp(alpha - logsumexp(alpha, axis=1)[:, None])


def smoothed(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> np.ndarray:
    """p(z_t | x), (T, C)."""
    joint = forward(initial, transitions, log_likelihoods) + backward(transitions, log_likelihoods)
    return np.exp(joint - logsumexp(joint, axis=1)[:, None])


def expected_transitions(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> np.ndarray:
    """Sum over t of p(z_t = i, z_{t+1} = j | x), (C, C)."""
    alpha = forward(initial, transitions, log_likelihoods)
    beta = backward(transitions, log_likelihoods)
    total = logsumexp(alpha[-1], axis=0)
    counts = np.zeros(transitions.shape)
    for t in range(len(alpha) - 1):
        later = log_likelihoods[t + 1] + beta[t + 1]
        counts += np.exp(alpha[t][:, None] + transitions + later[None] - total)
    return counts


def viterbi(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> tuple[np.ndarray, float]:
    """The most likely states (T,), and their log p(z, x)."""
    steps, num_states = log_likelihoods.shape
    best = initial + log_likelihoods[0]
    came_from = np.zeros((steps, num_states), int)
    for t in range(1, steps):
        scores = best[:, None] + transitions
        came_from[t] = np.argmax(scores, axis=0)
        best = np.max(scores, axis=0) + log_likelihoods[t]
    states = [int(np.argmax(best))]
    for t in range(steps - 1, 0, -1):
        states.append(came_from[t][states[-1]])
    return np.array(states[::-1]), float(np.max(best))


def every_path(
    initial: np.ndarray, transitions: np.ndarray, log_likelihoods: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Every state sequence (C^T, T) and its log p(z, x), by enumeration: for tiny cases."""
    steps, num_states = log_likelihoods.shape
    paths = np.array(list(product(range(num_states), repeat=steps)))
    scores = np.zeros(len(paths))
    for n, path in enumerate(paths):
        scores[n] = initial[path[0]] + sum(log_likelihoods[t, z] for t, z in enumerate(path))
        scores[n] += sum(transitions[i, j] for i, j in pairwise(path))
    return paths, scores


def em_step(
    initial: np.ndarray,
    transitions: np.ndarray,
    emission: tuple[np.ndarray, ...],
    sequences: list[np.ndarray],
    kind: str,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...], float]:
    """One step of Baum-Welch without prior, and the log-likelihood before it.

    `kind` is "categorical", emission (log_probs,); or "full", "diagonal" or "tied", emission
    (means, covariances (C, D, D)) with the covariances of that kind.
    """
    table = categorical if kind == "categorical" else gaussian
    starts, moves, posteriors, total = 0.0, 0.0, [], 0.0
    for sequence in sequences:
        potentials = initial, transitions, table(sequence, *emission)
        posterior = smoothed(*potentials)
        starts = starts + posterior[0]
        moves = moves + expected_transitions(*potentials)
        posteriors.append(posterior)
        total += log_likelihood(*potentials)
    with np.errstate(divide="ignore"):
        initial = np.log(starts / np.sum(starts))
        transitions = np.log(moves / np.sum(moves, axis=1, keepdims=True))
    everything, weights = np.concatenate(sequences), np.concatenate(posteriors)
    if kind == "categorical":
        counts = np.zeros(emission[0].shape)
        for x, weight in zip(everything, weights, strict=True):
            counts[:, x] += weight
        with np.errstate(divide="ignore"):
            log_probs = np.log(counts / np.sum(counts, axis=1, keepdims=True))
        return initial, transitions, (log_probs,), total
    mass = np.sum(weights, axis=0)
    means = weights.T @ everything / mass[:, None]
    scatter = np.zeros((*means.shape, means.shape[1]))
    for c, mean in enumerate(means):
        scatter[c] = (weights[:, c, None] * (everything - mean)).T @ (everything - mean)
    covariances = scatter / mass[:, None, None]
    if kind == "diagonal":
        covariances = covariances * np.eye(means.shape[1])
    if kind == "tied":
        covariances = np.broadcast_to(np.sum(scatter, axis=0) / np.sum(mass), scatter.shape)
    return initial, transitions, (means, covariances), total
