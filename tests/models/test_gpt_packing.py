"""Documents packed into a row are as if each stood by itself, and padding cannot matter."""

import functools

import jax
import numpy as np
import pytest
from compare import assert_close, assert_same, in_dtype
from small_gpt import CONFIGS, make_params

from jaxseq.models.gpt import GPT
from jaxseq.ops.losses import softmax_cross_entropy

DOCUMENTS = np.array([[3, 0, 7, 1], [2, 2, 9, 4]], np.int32)
# Two documents and two places of padding in a row; the order differs between the rows.
PACKED = {
    "tokens": np.array([[3, 0, 7, 1, 2, 2, 9, 4, 0, 0], [0, 2, 2, 9, 4, 0, 3, 0, 7, 1]], np.int32),
    "positions": np.array(
        [[0, 1, 2, 3, 0, 1, 2, 3, 0, 0], [0, 0, 1, 2, 3, 0, 0, 1, 2, 3]], np.int32
    ),
    "segments": np.array(
        [[1, 1, 1, 1, 2, 2, 2, 2, 0, 0], [0, 5, 5, 5, 5, 0, 6, 6, 6, 6]], np.int32
    ),
}
PADDING = PACKED["segments"] == 0


@functools.cache
def make_evaluate(name: str, dtype: str):
    """A compiled function to the logits, the loss over all valid tokens, and its gradient."""
    model = GPT(in_dtype(CONFIGS[name], dtype))

    @jax.jit
    def evaluate(params, tokens, positions, segments):
        def loss(params):
            logits = model.apply({"params": params}, tokens, positions=positions, segments=segments)
            return softmax_cross_entropy(logits, tokens, segments != 0)[0], logits

        (total, logits), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return logits, total, gradient

    return evaluate


@pytest.mark.parametrize("name", ["gpt-2", "llama"])
def test_packed_is_separate(name: str) -> None:
    with jax.enable_x64(True):
        params = make_params(CONFIGS[name], "float64")
        evaluate = make_evaluate(name, "float64")
        packed = evaluate(params, **PACKED)
        # Each document is in both rows.
        separate = evaluate(
            params, DOCUMENTS, np.arange(4, dtype=np.int32)[None], np.ones((2, 4), np.int32)
        )
        documents = packed[0][0, :8].reshape(2, 4, -1), packed[0][1][~PADDING[1]]
        assert_close(documents[0], separate[0], "float64", "first row")
        second = documents[1].reshape(2, 4, -1)[::-1]
        assert_close(second, separate[0], "float64", "second row")
        doubled = jax.tree.map(lambda x: 2 * x, separate[1:])
        assert_close(packed[1:], doubled, "float64", "loss and gradient")


def spoil(tokens: int | None, positions: int | None) -> dict[str, np.ndarray]:
    spoiled = {name: array.copy() for name, array in PACKED.items()}
    if tokens is not None:
        spoiled["tokens"][PADDING] = tokens
    if positions is not None:
        spoiled["positions"][PADDING] = positions
    return spoiled


@pytest.mark.parametrize(
    "junk",
    [
        pytest.param([(10, 5), (3, 7), (0, 1)], id="inside the tables"),
        pytest.param(
            [(-1, None), (11, None), (2**31 - 1, None), (None, -7), (None, 8)],
            id="outside the tables",
        ),
    ],
)
@pytest.mark.parametrize("name", ["gpt-2", "post-norm"])
def test_junk_in_padding_cannot_matter(name: str, junk: list[tuple]) -> None:
    params = make_params(CONFIGS[name])
    evaluate = make_evaluate(name, "float32")
    clean = evaluate(params, **PACKED)
    for tokens, positions in junk:
        dirty = evaluate(params, **spoil(tokens, positions))
        what = f"token {tokens} at position {positions} in the padding: "
        assert_same(np.asarray(dirty[0])[~PADDING], np.asarray(clean[0])[~PADDING], what)
        assert_same(dirty[1:], clean[1:], what)


def test_a_row_of_padding_adds_nothing() -> None:
    evaluate = make_evaluate("gpt-2", "float32")
    params = make_params(CONFIGS["gpt-2"])
    empty = {name: np.zeros_like(array) for name, array in PACKED.items()}
    _, total, gradient = evaluate(params, **empty)
    assert total == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))
