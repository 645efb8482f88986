"""The matrix memory: its chunkwise form against the twin, which goes step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import assert_close, assert_same, check_parity

from jaxseq.ops.matrix_memory import matrix_memory
from jaxseq.reference import matrix_memory as reference

LENGTHS = np.array([7, 0, 4], np.int32)


def draw(decay: float = 1.0) -> tuple[np.ndarray, ...]:
    """query, key, value, log decays down to about -`decay`, memory."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(3, 7, 2, 4)) for _ in range(3))
    return q, k, v, -decay * rng.uniform(size=(3, 7, 2)), rng.normal(size=(3, 2, 4, 4))


def check(chunk_size: int, reverse: bool, dtype: str, decay: float = 1.0, **options) -> None:
    low = options.get("compute_dtype")
    check_parity(
        lambda *arrays: matrix_memory(
            *arrays,
            jnp.asarray(LENGTHS),
            reverse=reverse,
            chunk_size=chunk_size,
            dtype=low and jnp.dtype(low),
        ),
        lambda *arrays: reference.matrix_memory(*arrays, LENGTHS, reverse=reverse),
        *draw(decay),
        dtype=dtype,
        **options,
    )


@pytest.mark.parametrize(("chunk_size", "reverse"), [(1, False), (3, True), (64, False)])
def test_every_chunk_size_equals_twin(chunk_size: int, reverse: bool) -> None:
    check(chunk_size, reverse, "float64")


def test_float32_equals_twin() -> None:
    check(3, False, "float32")


def test_bfloat16_operands_equal_twin() -> None:
    check(3, False, "float32", compute_dtype="bfloat16")


def test_decays_that_forget_everything_equal_twin() -> None:
    # exp(-sum) is 0 in float32 after a step or two, and exp(+sum) would be infinite.
    check(64, False, "float32", decay=300.0)


def test_padding_matters_to_nothing() -> None:
    arrays = [jnp.asarray(x, jnp.float32) for x in draw()]

    @jax.jit
    def value_and_gradient(arrays):
        def function(*arrays):
            return matrix_memory(*arrays, jnp.asarray(LENGTHS), chunk_size=3)

        outputs, pullback = jax.vjp(function, *arrays)
        return outputs, pullback(jax.tree.map(jnp.ones_like, outputs))

    expected = value_and_gradient(arrays)
    valid = np.arange(7) < LENGTHS[:, None]
    for junk in (np.nan, np.inf):
        spoiled = [jnp.where(valid.reshape(3, 7, *[1] * (x.ndim - 2)), x, junk) for x in arrays[:4]]
        assert_same(value_and_gradient([*spoiled, arrays[4]]), expected)
    assert not np.any(np.asarray(expected[0][0])[~valid])


def test_two_pieces_are_the_whole() -> None:
    arrays = [jnp.asarray(x, jnp.float32) for x in draw()[:4]]
    read = jax.jit(matrix_memory)
    whole, end = read(*arrays)
    first, between = read(*(x[:, :5] for x in arrays))
    second, last = read(*(x[:, 5:] for x in arrays), between)
    assert_close(jnp.concatenate([first, second], axis=1), whole, "float32")
    assert_close(last, end, "float32")


def test_no_steps_hand_the_memory_on() -> None:
    *arrays, memory = (jnp.asarray(x, jnp.float32) for x in draw())
    output, last = matrix_memory(*(x[:, :0] for x in arrays), memory)
    assert output.shape == (3, 0, 2, 4)
    assert_same(last, memory)
