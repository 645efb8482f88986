"""The attention decoder's beam, ranked by CTC too, against every transcript that there is."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseq.decoding.transcribe import transcribe
from jaxseq.models.speech_recognizer import Recognized, SpeechRecognizerConfig
from jaxseq.ops.ctc import ctc_loss
from jaxseq.ops.spectral import FrontEnd

MODEL = SpeechRecognizerConfig(
    front_end=FrontEnd(rate=800, window=20, hop=8, fft_size=32, num_mels=5),
    width=8,
    num_layers=1,
    num_heads=2,
    subsampling=2,
    decoder="attention",
    vocab_size=3,
).resolve(vocab_size=3)
LONGEST = 3
ALL = [y for size in range(LONGEST + 1) for y in itertools.product((1, 2), repeat=size)]


@pytest.fixture(scope="module")
def heard():
    """A model, two utterances, and log-probabilities (2, transcripts) by CTC and by the decoder."""
    module = MODEL.build()
    rng = np.random.default_rng(0)
    samples = jnp.asarray(rng.normal(size=(2, 96)), jnp.float32)
    lengths = jnp.array([96, 50])
    shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), samples, lengths))["params"]
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)

    labels = np.zeros((len(ALL), LONGEST), np.int32)
    sizes = np.array([len(y) for y in ALL], np.int32)
    for row, y in zip(labels, ALL, strict=True):
        row[: len(y)] = y
    inputs = np.pad(labels, ((0, 0), (1, 0)))[:, : LONGEST + 1]

    @jax.jit
    def scores(samples, lengths):
        many = (jnp.repeat(x[None], len(ALL), axis=0) for x in (samples, lengths))
        found = module.apply({"params": params}, *many, jnp.asarray(inputs), jnp.asarray(sizes + 1))
        assert isinstance(found, Recognized)
        nats, feasible = ctc_loss(
            found.logits, found.lengths, jnp.asarray(labels), jnp.asarray(sizes)
        )
        assert found.target_logits is not None
        return jnp.where(feasible, -nats, -jnp.inf), jax.nn.log_softmax(found.target_logits)

    by_ctc, by_decoder = [], []
    for row in range(2):
        ctc, steps = scores(samples[row], lengths[row])
        by_ctc.append(np.asarray(ctc))
        # A transcript of the longest length has no room for its end.
        by_decoder.append(
            [
                sum(float(steps[n, t, label]) for t, label in enumerate([*y, 0][:LONGEST]))
                for n, y in enumerate(ALL)
            ]
        )
    return module, params, (samples, lengths), np.array(by_ctc), np.array(by_decoder)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0])
def test_a_wide_beam_finds_the_best_of_all_transcripts(heard, weight):
    module, params, utterances, by_ctc, by_decoder = heard
    with np.errstate(invalid="ignore"):
        scores = weight * by_ctc + (1 - weight) * by_decoder if weight else by_decoder
    labels, sizes, found = transcribe(
        module, params, *utterances, beam_size=len(ALL), max_length=LONGEST, ctc_weight=weight
    )
    for row in range(2):
        best = ALL[int(np.argmax(scores[row]))]
        assert tuple(labels[row, : sizes[row]].tolist()) == best
        assert float(found[row]) == pytest.approx(scores[row].max(), abs=1e-4)
