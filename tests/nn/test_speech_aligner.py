"""The aligner of frames and tokens against its twin, and over padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_same, check_parity, float32, random_params

from jaxseq.nn.speech_aligner import UNLIKELY, SpeechAligner
from jaxseq.reference.speech_aligner import speech_aligner

TOKENS = np.array([[3, 0, 1], [2, 2, 9], [9, 9, 9]])
TOKEN_LENGTHS, FRAMES = np.array([3, 2, 0]), np.array([5, 4, 2])
rng = np.random.default_rng(0)
TABLE, MELS, PRIOR = (rng.normal(size=shape) for shape in ((4, 4), (3, 5, 2), (3, 5, 3)))
LAYER = SpeechAligner(8)
TEXT = jnp.asarray(TOKENS), jnp.asarray(TOKEN_LENGTHS)
PARAMS = random_params(LAYER, *map(jnp.asarray, (TABLE, *TEXT, MELS, FRAMES, PRIOR)))
VALID = (np.arange(5)[None] < FRAMES[:, None])[..., None] & (
    np.arange(3)[None] < TOKEN_LENGTHS[:, None]
)[:, None]


def align(params, table, mels, prior):
    return LAYER.apply({"params": params}, table, *TEXT, mels, jnp.asarray(FRAMES), prior)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_equals_twin(dtype: str) -> None:
    check_parity(
        lambda *arrays: jnp.where(VALID, align(*arrays), 0),
        lambda params, table, mels, prior: np.where(
            VALID,
            speech_aligner(params, table, TOKENS, TOKEN_LENGTHS, mels, FRAMES, prior),
            0,
        ),
        *(PARAMS, TABLE, MELS, PRIOR),
        dtype=dtype,
    )


def test_what_stands_in_the_padding_changes_nothing() -> None:
    @jax.jit
    def value_and_gradients(*arrays):
        value, pullback = jax.vjp(align, *arrays)
        return value, pullback(jnp.cos(value))

    def padded(junk: float):
        heard = (np.arange(5)[None] < FRAMES[:, None])[..., None]
        mels, prior = (np.where(mask, x, junk) for x, mask in ((MELS, heard), (PRIOR, VALID)))
        return value_and_gradients(float32(PARAMS), *map(jnp.float32, (TABLE, mels, prior)))

    expected = padded(0.0)
    assert_same(padded(np.nan), expected)
    assert (np.asarray(expected[0])[~VALID] == UNLIKELY).all()
