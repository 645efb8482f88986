"""CTC decoding against all label sequences there are, and a beam of plain dictionaries."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import VALUE_TOLERANCES

from jaxseq.decoding.ctc import ctc_greedy, ctc_prefix_beam
from jaxseq.decoding.ngram import NGram
from jaxseq.reference import ctc_decoding as reference
from jaxseq.reference import ngram as reference_ngram

TEXTS = [[1, 2, 1], [2, 2], [1, 2], [1], []]
WEIGHT, BONUS = 0.7, 0.3


def random_log_probs(rows: int, time: int, vocab_size: int, seed: int = 0) -> np.ndarray:
    """With symbols that go on for a few frames, and some that are excluded."""
    rng = np.random.default_rng(seed)
    logits = 2 * np.repeat(rng.normal(size=(rows, time, vocab_size)), 2, axis=1)[:, :time]
    logits += rng.normal(size=logits.shape)
    logits[rng.random(logits.shape) < 0.1] = -np.inf
    logits[..., 0] = np.where(np.isneginf(logits).all(-1), 0, logits[..., 0])
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("beam_size", "blank"))
def search(log_probs, lengths, grams, *, beam_size, blank=0):
    options = {}
    if grams is not None:
        carry = grams.start_carry(len(log_probs) * beam_size)
        # A second array in the carry, which must go where the first goes.
        carry = {"context": carry, "written": jnp.zeros((len(carry), 2), jnp.int32)}

        def step(tokens, carry):
            log_probs, context = grams.step(tokens, carry["context"])
            written = carry["written"] + 1
            # The end is worth something more for every label: 1 token went in before them.
            log_probs += jnp.where(jnp.arange(log_probs.shape[1])[None] == blank, 0.1, 0) * (
                written[:, :1] - 1
            )
            return log_probs, {"context": context, "written": written}

        options = {"language_model": (step, carry), "weight": WEIGHT, "bonus": BONUS}
    return ctc_prefix_beam(log_probs, lengths, beam_size=beam_size, blank=blank, **options)


def twin_model(vocab_size: int, blank: int) -> Callable[[tuple[int, ...]], np.ndarray]:
    """What `search` adds up, from the definition of n-grams."""
    grams = reference_ngram.NGram(TEXTS, 3, vocab_size, blank)

    @functools.cache
    def model(labels: tuple[int, ...]) -> np.ndarray:
        context = (blank, blank, *labels)[-2:]
        found = np.log([grams.probability(each, context) for each in range(vocab_size)])
        found[blank] += 0.1 * len(labels)
        return found

    return model


def check_row(found, expected: list[reference.Hypothesis], blank: int = 0) -> None:
    """The hypotheses found in one row are the expected ones, and behind them there is nothing."""
    labels, lengths, scores = map(np.asarray, found)
    actual = [tuple(x[:n].tolist()) for x, n in zip(labels, lengths, strict=True)]
    assert actual[: len(expected)] == [labels for labels, _ in expected]
    tolerance = VALUE_TOLERANCES["float32"] * max(1.0, max(abs(s) for _, s in expected))
    np.testing.assert_allclose(
        scores[: len(expected)], [score for _, score in expected], rtol=0, atol=tolerance
    )
    assert np.all(np.isneginf(scores[len(expected) :]))
    assert not np.any(lengths[len(expected) :])
    behind = np.arange(labels.shape[1])[None] >= lengths[:, None]
    assert np.all(labels[behind] == blank)


@pytest.mark.parametrize("fused", [False, True], ids=["alone", "fused"])
def test_a_beam_as_wide_as_all_prefixes_finds_all_of_them(fused: bool) -> None:
    # 15 label sequences fit into 4 frames; the blank is the last of 3 symbols where it is alone.
    blank = 0 if fused else 2
    log_probs, lengths = random_log_probs(4, 4, 3), np.array([4, 3, 0, 4])
    grams = NGram.fit(TEXTS, 3, 3, blank) if fused else None
    found = search(jnp.asarray(log_probs), jnp.asarray(lengths), grams, beam_size=18, blank=blank)
    options = {"model": twin_model(3, blank), "weight": WEIGHT, "bonus": BONUS} if fused else {}
    for b, length in enumerate(lengths):
        row = log_probs[b, :length].astype(np.float64)
        expected = reference.all_labels(row, blank=blank, **options)
        check_row([x[b] for x in found], expected, blank)


@pytest.mark.parametrize("fused", [False, True], ids=["alone", "fused"])
def test_equals_twin(fused: bool) -> None:
    log_probs, lengths = random_log_probs(12, 14, 4, seed=1), np.full(12, 14)
    lengths[:2] = [9, 1]
    for b in range(12):
        log_probs[b, lengths[b] :] = np.nan
    grams = NGram.fit(TEXTS, 3, 4) if fused else None
    found = search(jnp.asarray(log_probs), jnp.asarray(lengths), grams, beam_size=4)
    options = {"model": twin_model(4, 0), "weight": WEIGHT, "bonus": BONUS} if fused else {}
    differs = False
    for b, length in enumerate(lengths):
        row = log_probs[b, :length].astype(np.float64)
        expected = reference.ctc_prefix_beam(row, beam_size=4, **options)
        check_row([x[b] for x in found], expected)
        differs |= expected[0][0] != reference.ctc_greedy(row)[0]
    assert differs


def test_greedy_equals_twin() -> None:
    log_probs, lengths = random_log_probs(12, 14, 4, seed=1), np.full(12, 14)
    lengths[:3] = [9, 1, 0]
    for b in range(12):
        log_probs[b, lengths[b] :] = np.nan
    for blank in [0, 3]:
        labels, counts, scores = jax.jit(ctc_greedy, static_argnames="blank")(
            jnp.asarray(log_probs), jnp.asarray(lengths), blank=blank
        )
        for b, length in enumerate(lengths):
            expected, score = reference.ctc_greedy(log_probs[b, :length], blank=blank)
            assert tuple(labels[b, : counts[b]].tolist()) == expected
            assert np.all(labels[b, counts[b] :] == blank)
            np.testing.assert_allclose(scores[b], score, rtol=1e-5)


def test_what_the_language_model_forbids_stays_forbidden_at_weight_0() -> None:
    def step(tokens, carry):
        return jnp.full((len(tokens), 3), jnp.log(0.5)).at[:, 2].set(-jnp.inf), carry

    log_probs = jnp.log(jnp.array([[[0.1, 0.1, 0.8], [0.3, 0.6, 0.1]]]))
    labels, lengths, scores = jax.jit(
        lambda x: ctc_prefix_beam(
            x, jnp.array([2]), beam_size=2, language_model=(step, jnp.zeros(2)), weight=0.0
        )
    )(log_probs)
    np.testing.assert_array_equal(labels[0, :, 0], [1, 0])
    np.testing.assert_array_equal(lengths[0], [1, 0])
    np.testing.assert_allclose(np.exp(scores[0]), [0.15, 0.03], rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"beam_size": 0}, "beam_size is 0"), ({"blank": 3}, r"blank is 3; .* 0 \.\.\. 2")],
)
def test_sizes_out_of_range_name_the_argument(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ctc_prefix_beam(jnp.zeros((1, 2, 3)), jnp.array([2]), **{"beam_size": 1, **changes})
