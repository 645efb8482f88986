"""CTC against the enumeration of all paths, its twin and PyTorch, and at its edges."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops import left_to_right
from jaxseq.ops.ctc import ctc_loss
from jaxseq.reference import ctc as reference


@functools.partial(jax.jit, static_argnames="blank")
def losses_and_gradient(logits, logit_lengths, labels, label_lengths, *, blank=0):
    """(losses, possible, gradient of the sum of the losses)."""

    def total(logits):
        found = ctc_loss(logits, logit_lengths, labels, label_lengths, blank=blank)
        return jnp.sum(found[0]), found

    (_, (losses, possible)), gradient = jax.value_and_grad(total, has_aux=True)(logits)
    return losses, possible, gradient


# Rows: frames to spare, exactly enough for a repeat, one too few for it, no labels, neither labels
# nor frames, labels without frames, one frame.
FRAMES = np.array([7, 4, 5, 6, 0, 0, 1])
LABELS = np.array([[1, 1, 2, 3], [2, 2, 3, 3], [2, 2, 3, 3], [0] * 4, [0] * 4, [1] * 4, [3] * 4])
COUNTS = np.array([4, 3, 4, 0, 0, 2, 1])
POSSIBLE = np.array([True, True, False, True, True, False, True])


def edges() -> tuple[np.ndarray, ...]:
    logits = 2 * np.random.default_rng(0).normal(size=(7, 7, 4))
    return logits, FRAMES, LABELS, COUNTS


def test_equals_the_sum_over_all_paths_of_every_label_sequence() -> None:
    time, vocab_size, blank = 4, 3, 1
    row = np.random.default_rng(1).normal(size=(time, vocab_size)).astype(np.float32)
    log_probs = row - np.log(np.exp(row).sum(-1, keepdims=True))
    expected = reference.path_probabilities(log_probs, blank)
    every = [
        labels for n in range(time + 1) for labels in itertools.product([0, 2], repeat=n)
    ]  # possible or not
    padded = np.array([labels + (blank,) * (time - len(labels)) for labels in every])
    losses, possible, _ = losses_and_gradient(
        jnp.broadcast_to(jnp.asarray(row), (len(every), time, vocab_size)),
        jnp.full(len(every), time),
        jnp.asarray(padded),
        jnp.asarray([len(labels) for labels in every]),
        blank=blank,
    )
    assert [bool(p) for p in possible] == [labels in expected for labels in every]
    assert 0 < np.sum(possible) < len(every)
    assert_close(losses, np.array([-expected.get(labels, 0.0) for labels in every]), "float32")
    np.testing.assert_allclose(np.sum(np.exp(-losses[possible])), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_twin(dtype: str) -> None:
    logits, frames, labels, counts = edges()
    rest, blank = (frames, 3 - labels, counts), 3
    check_parity(
        lambda x: ctc_loss(x, *map(jnp.asarray, rest), blank=blank)[0],
        lambda x: reference.ctc_loss(x, *rest, blank=blank)[0],
        logits,
        dtype=dtype,
    )


def test_impossible_empty_and_tight_rows() -> None:
    logits, *rest = edges()
    losses, possible, gradient = losses_and_gradient(
        jnp.asarray(logits, jnp.float32), *map(jnp.asarray, rest)
    )
    np.testing.assert_array_equal(possible, POSSIBLE)
    assert not np.any(losses[~POSSIBLE])
    assert not np.any(gradient[~POSSIBLE])
    assert losses[4] == 0  # nothing from nothing
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    np.testing.assert_allclose(losses[3], -np.sum(log_probs[3, :6, 0]), rtol=1e-6)
    np.testing.assert_allclose(losses[6], -log_probs[6, 0, 3], rtol=1e-6)
    np.testing.assert_allclose(
        losses[1], -np.sum(log_probs[1, np.arange(4), [2, 0, 2, 3]]), rtol=1e-6
    )


def test_padding_is_not_looked_at() -> None:
    logits, frames, labels, counts = edges()
    logits, labels = logits.astype(np.float32), labels.copy()
    arguments = (frames, labels, counts)
    clean = losses_and_gradient(jnp.asarray(logits), *map(jnp.asarray, arguments))
    junk = itertools.cycle([np.nan, np.inf, -np.inf])
    for b in range(len(logits)):
        logits[b, frames[b] :] = next(junk)
        labels[b, counts[b] :] = 2**30
    dirty = losses_and_gradient(jnp.asarray(logits), *map(jnp.asarray, arguments))
    assert_same(dirty, clean)
    for b in range(len(logits)):
        assert not np.any(dirty[2][b, frames[b] :])


def test_extreme_logits() -> None:
    """Certain, all but excluded and excluded labels, over enough frames to underflow any float."""
    logits, frames, labels, counts = edges()
    row = [1, 0, 1, 2, 0, 3, 0]
    logits = np.zeros((7, 7, 4), np.float32)
    logits[0, np.arange(7), row] = 60  # certain
    logits[1, :, 0] = 90  # labels have e^-90 each, 3 of them e^-270
    logits[2:, :, 1] = -300
    logits[3, :, 2] = -np.inf
    frames, counts = np.array([7, 7, 7, 7, 7, 7, 0]), np.array([4, 3, 4, 4, 0, 2, 0])
    labels[3] = [3, 1, 3, 2]  # of which one is excluded
    labels[5] = [1, 3, 0, 0]
    losses, possible, gradient = losses_and_gradient(
        *map(jnp.asarray, (logits, frames, labels, counts))
    )
    with np.errstate(divide="ignore"):
        expected, _ = reference.ctc_loss(logits.astype(np.float64), frames, labels, counts)
    assert np.all(losses >= 0)
    assert float(losses[1]) > 260
    np.testing.assert_array_equal(possible, np.arange(7) != 3)
    assert_close(losses, expected, "float32")
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(np.sum(gradient, axis=-1), 0, atol=1e-6)


def test_never_negative() -> None:
    """Nothing but the label is possible, in four ways whose rounded sum is above 1."""
    logits = np.full((7, 7, 4), -5, np.float32)
    logits[:, :, 1] = 20
    ends = [(19.249231, 19.26328), (19.373085, 19.8385), (21.267548, 18.721285)]
    logits[:3, [0, 6], 0] = ends  # the blank or the label
    losses, possible, _ = losses_and_gradient(
        *map(jnp.asarray, (logits, np.full(7, 7), np.ones((7, 4), int), np.ones(7, int)))
    )
    assert np.all(possible)
    assert np.all(losses >= 0)
    assert np.all(losses < 1e-5)


def test_long_rows_keep_the_digits_of_float32() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(2, 400, 5)).astype(np.float32)
    labels = rng.integers(1, 5, (2, 60))
    lengths, counts = np.array([400, 300]), np.array([60, 45])
    losses, _, gradient = losses_and_gradient(*map(jnp.asarray, (logits, lengths, labels, counts)))
    with jax.enable_x64(True):
        exact = losses_and_gradient(
            *map(jnp.asarray, (logits.astype(np.float64), lengths, labels, counts))
        )
    np.testing.assert_allclose(losses, exact[0], rtol=5e-7)
    np.testing.assert_allclose(gradient, exact[2], atol=1e-5)


def test_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rows = np.repeat(np.arange(7)[POSSIBLE], 2)[:7]  # in the shape that is compiled already
    logits, frames, labels, counts = (each[rows] for each in edges())
    logits = logits.astype(np.float32)
    losses, _, gradient = losses_and_gradient(*map(jnp.asarray, (logits, frames, labels, counts)))
    theirs = torch.tensor(logits, requires_grad=True)
    their_losses = torch.nn.functional.ctc_loss(
        theirs.log_softmax(-1).transpose(0, 1),
        *map(torch.tensor, (labels, frames, counts)),
        reduction="none",
    )
    their_losses.sum().backward()
    np.testing.assert_allclose(losses, their_losses.detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(gradient, theirs.grad.numpy(), atol=1e-4)


def test_on_accelerators_a_divided_batch_needs_nothing_of_other_devices(monkeypatch) -> None:
    """The forms that are not those of CPUs give the same, and communicate nothing."""
    monkeypatch.setattr(left_to_right, "_flat_scan", left_to_right._scan)
    monkeypatch.setattr(left_to_right, "_held_shares", left_to_right._shares)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    arguments = [jax.device_put(each[:6], rows) for each in edges()]
    arguments[0] = arguments[0].astype(jnp.float32)

    def both(logits, *rest):
        found, pullback = jax.vjp(lambda logits: ctc_loss(logits, *rest)[0], logits)
        return found, pullback(jnp.ones_like(found))[0]

    program = jax.jit(both).lower(*arguments).compile()
    text = program.as_text()
    assert not any(f" {name}" in text for name in ("all-", "collective-permute"))
    alone = losses_and_gradient(*(jnp.asarray(np.asarray(each)) for each in arguments))
    assert_close(program(*arguments), (alone[0], alone[2]), "float32")


def test_nan_in_a_frame_is_seen() -> None:
    logits, frames, labels, counts = edges()
    logits[0, 3, 2] = np.nan
    losses, _, _ = losses_and_gradient(
        jnp.asarray(logits, jnp.float32), *map(jnp.asarray, (frames, labels, counts))
    )
    assert np.isnan(losses[0])
    assert np.all(np.isfinite(losses[1:]))


def test_no_frame_or_no_label_in_the_whole_batch() -> None:
    for time, count in [(0, 2), (3, 0)]:
        losses, possible, gradient = losses_and_gradient(
            jnp.zeros((2, time, 4)),
            jnp.full(2, time),
            jnp.zeros((2, count), jnp.int32),
            jnp.zeros(2, jnp.int32),
        )
        np.testing.assert_allclose(losses, time * np.log(4), rtol=1e-6)
        assert np.all(possible)
        assert np.all(np.isfinite(gradient))


def test_blank_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"blank is 4; it must be one of 0 \.\.\. 3"):
        ctc_loss(
            jnp.zeros((1, 2, 4)), jnp.ones(1, int), jnp.ones((1, 1), int), jnp.ones(1, int), blank=4
        )
