"""Routing, dispatch and grouped products against their twins."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops import experts as ops
from jaxseq.reference import experts as reference

COUNT = 4
KINDS = ["float64", "float32"]


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def choose(num_tokens: int, per_token: int, seed: int = 0) -> np.ndarray:
    """Different experts for each token, the first ones more often."""
    scores = draw(num_tokens, COUNT, seed=seed) - np.arange(COUNT)[None]
    return np.argsort(-scores, axis=1)[:, :per_token].astype(np.int32)


# --- Who goes where ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_route_equals_twin(per_token: int, dtype: str) -> None:
    logits = 2 * draw(9, COUNT)
    check_parity(
        lambda logits: ops.route(logits, per_token)[::2],
        lambda logits: reference.route(logits, per_token)[::2],
        logits,
        dtype=dtype,
    )
    found = ops.route(jnp.asarray(logits, jnp.float32), per_token)[1]
    np.testing.assert_array_equal(found, reference.route(logits, per_token)[1])


def test_equal_experts_are_chosen_in_order() -> None:
    logits = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    for experts in (ops.route(jnp.asarray(logits), 2)[1], reference.route(logits, 2)[1]):
        np.testing.assert_array_equal(experts, [[1, 2], [0, 1]])


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("per_token", [1, 2])
def test_balance_loss_equals_twin(per_token: int, dtype: str) -> None:
    experts, valid = choose(9, per_token), np.arange(9) % 3 != 1
    check_parity(
        lambda p: ops.balance_loss(p, jnp.asarray(experts), jnp.asarray(valid)),
        lambda p: np.asarray(reference.balance_loss(p, experts, valid)),
        np.exp(draw(9, COUNT)),
        dtype=dtype,
    )


def test_balance_loss_is_one_in_balance_and_grows_to_the_number_of_experts() -> None:
    loss = jax.jit(ops.balance_loss)

    def of(logits: np.ndarray) -> float:
        _, experts, p = ops.route(jnp.asarray(logits, jnp.float32), 1)
        return float(loss(p, experts))

    # Each expert for two tokens of eight; five tokens for the first; all eight.
    preferred = [np.arange(8) % COUNT, np.maximum(np.arange(8) - 4, 0), np.zeros(8, int)]
    losses = [of(30.0 * np.eye(COUNT)[experts]) for experts in preferred]
    np.testing.assert_allclose(losses, [1.0, 4 * (25 + 3) / 64, 4.0], rtol=1e-6)
    assert losses == sorted(losses)
    # Two choices a token, both halves of the experts alike.
    _, experts, p = ops.route(jnp.asarray([[9.0, 9.0, 0, 0], [0, 0, 9.0, 9.0]]), 2)
    np.testing.assert_allclose(loss(p, experts), 1.0, rtol=1e-6)


def test_balance_loss_of_padding_alone_is_zero() -> None:
    p = jnp.full((3, COUNT), jnp.nan)
    valid = jnp.zeros(3, bool)
    value, gradient = jax.value_and_grad(ops.balance_loss)(p, jnp.asarray(choose(3, 2)), valid)
    assert value == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((3, COUNT)))


@partial(jax.jit, static_argnums=2)
def dispatched(experts: jax.Array, valid: jax.Array | None, factor: float) -> tuple:
    return ops.dispatch(experts, valid, COUNT, factor)[:3]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.1, 1.5, 9.0])
def test_dispatch_keeps_what_the_twin_keeps(factor: float, padded: bool) -> None:
    for seed in range(5):
        for per_token in (1, 2):
            experts = choose(20, per_token, seed)
            valid = draw(20, seed=seed) > -0.5 if padded else np.ones(20, bool)
            kept = reference.kept_choices(experts, valid, COUNT, factor)
            where = jnp.asarray(valid) if padded else None
            plan = jax.tree.map(np.asarray, dispatched(jnp.asarray(experts), where, factor))
            choice_of_row, row_of_choice, sizes = plan
            rows = len(choice_of_row)
            np.testing.assert_array_equal((row_of_choice < rows).reshape(per_token, 20).T, kept)
            np.testing.assert_array_equal(sizes, [np.sum(kept & (experts == e)) for e in range(4)])
            # There and back, at a row of the chosen expert.
            taken = np.flatnonzero(row_of_choice < rows)
            np.testing.assert_array_equal(choice_of_row[row_of_choice[taken]], taken)
            assert np.sum(choice_of_row < 20 * per_token) == len(taken)
            slots = rows // COUNT
            begin = slots * np.arange(COUNT) if factor else np.cumsum(sizes) - sizes
            expert = experts.T.reshape(-1)[taken]
            assert np.all(row_of_choice[taken] >= begin[expert])
            assert np.all(row_of_choice[taken] < (begin + sizes)[expert])
            if factor == 0.3:
                assert np.sum(kept) < 20 * per_token / 2


def test_first_choices_come_before_second_ones() -> None:
    # Expert 0 is the second choice of tokens 0 and 1, and the first of tokens 2 and 3.
    experts = np.array([[1, 0], [2, 0], [0, 1], [0, 2]], np.int32)
    kept = np.asarray(dispatched(jnp.asarray(experts), None, 1.0)[1]) < 2 * COUNT
    np.testing.assert_array_equal(kept.reshape(2, 4), [[True] * 4, [False, False, True, True]])


# --- Products ------------------------------------------------------------------------------------

BFLOAT16 = jnp.dtype("bfloat16")
SIZES = {"even": [20, 21, 9], "empty groups": [0, 41, 0], "one row": [0, 0, 1], "none": [0, 0, 0]}
SLOTS = 16
TAKEN = [16, 0, 11]  # of the slots of each group


def twin(x: np.ndarray, kernel: np.ndarray, sizes: list[int], slots: int = 0) -> np.ndarray:
    if not slots:
        return reference.grouped_linear(x, kernel, np.asarray(sizes))
    y = np.zeros((len(x), kernel.shape[2]))
    for e, size in enumerate(sizes):
        y[slots * e :][:size] = x[slots * e :][:size] @ kernel[e]
    return y


@pytest.mark.parametrize(
    ("sizes", "dtype"), [("even", d) for d in DTYPES] + [(s, "float64") for s in SIZES]
)
def test_grouped_linear_equals_twin(sizes: str, dtype: str) -> None:
    # 50 rows are cut into blocks of 8.
    check_parity(
        lambda x, w: ops.grouped_linear(x, w, jnp.asarray(SIZES[sizes], jnp.int32)),
        partial(twin, sizes=SIZES[sizes]),
        draw(50, 6),
        draw(3, 6, 5),
        dtype=dtype,
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_grouped_linear_in_slots_equals_twin(dtype: str) -> None:
    check_parity(
        lambda x, w: ops.grouped_linear(x, w, jnp.asarray(TAKEN, jnp.int32), slots=SLOTS),
        partial(twin, sizes=TAKEN, slots=SLOTS),
        draw(48, 6),
        draw(3, 6, 5),
        dtype=dtype,
    )


@pytest.mark.parametrize(("rows", "sizes"), [(0, [0, 0, 0]), (1, [0, 1, 0]), (9, [4, 0, 5])])
def test_few_rows_equal_twin(rows: int, sizes: list[int]) -> None:
    x, kernel = draw(rows, 6), draw(3, 6, 5)
    y = ops.grouped_linear(*(jnp.asarray(z, jnp.float32) for z in (x, kernel)), jnp.asarray(sizes))
    assert_close(y, twin(x, kernel, sizes), "float32")


def test_bfloat16_operands_keep_float32_around_them() -> None:
    def low(x, kernel):
        y = ops.grouped_linear(x, kernel, jnp.asarray(SIZES["even"]), dtype=BFLOAT16)
        assert y.dtype == jnp.float32
        return y

    same = partial(twin, sizes=SIZES["even"])
    check_parity(low, same, draw(50, 6), draw(3, 6, 5), dtype="float32", compute_dtype="bfloat16")


@pytest.mark.parametrize("slots", [0, SLOTS])
@pytest.mark.parametrize("on_cpu", [False, True])
def test_rows_in_no_group_matter_to_nothing(on_cpu: bool, slots: int, monkeypatch) -> None:
    if not on_cpu:
        monkeypatch.setattr(ops, "_rows_on_cpu", ops._rows)
        monkeypatch.setattr(ops, "_kernels_on_cpu", ops._kernels)
    kernel = jnp.asarray(draw(3, 6, 5), jnp.float32)
    row = np.arange(48)
    unused = ((row % SLOTS >= np.repeat(TAKEN, SLOTS)) if slots else row >= sum(TAKEN))[:, None]

    @jax.jit
    def run(x, dy):
        call = partial(ops.grouped_linear, sizes=jnp.asarray(TAKEN), slots=slots)
        y, pullback = jax.vjp(call, x, kernel)
        return y, *pullback(dy)

    x, dy = jnp.asarray(draw(48, 6), jnp.float32), jnp.asarray(draw(48, 5), jnp.float32)
    clean = run(jnp.where(unused, 0, x), jnp.where(unused, 0, dy))
    assert_same(run(jnp.where(unused, jnp.nan, x), jnp.where(unused, jnp.inf, dy)), clean)
    for rows in clean[:2]:
        np.testing.assert_array_equal(np.asarray(rows)[unused[:, 0]], 0.0)


@pytest.mark.parametrize("slots", [0, SLOTS])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_form_of_other_platforms_equals_that_of_cpus(dtype: str, slots: int) -> None:
    rule, sizes = ops.Rule(slots, jnp.dtype(dtype), jnp.dtype("float32")), jnp.asarray(TAKEN)
    x, dy, kernel = (jnp.asarray(draw(*s), dtype) for s in ((48, 6), (48, 5), (3, 6, 5)))

    @partial(jax.jit, static_argnums=0)
    def run(on_cpu: bool) -> tuple:
        rows = partial(ops._rows_on_cpu if on_cpu else ops._rows, rule)
        kernels = ops._kernels_on_cpu if on_cpu else ops._kernels
        there, back = rows("RD,DF->RF", x, kernel, sizes), rows("RF,DF->RD", dy, kernel, sizes)
        return there, back, kernels(rule, x, dy, sizes)

    assert_close(run(True), run(False), "float32")


@pytest.mark.parametrize("slots", [0, SLOTS])
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_other_platforms_get_no_cpu_form(platform: str, slots: int) -> None:
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return ops.grouped_linear(x, kernel, jnp.asarray(TAKEN), slots=slots).sum()

    arguments = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((48, 6), (3, 6, 5)))
    step = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*arguments)
    assert "while" not in step.lower(lowering_platforms=(platform,)).as_text()
    assert "while" in step.lower(lowering_platforms=("cpu",)).as_text()
