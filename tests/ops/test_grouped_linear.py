"""Products of grouped rows against their twin."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compare import DTYPES, assert_close, assert_same, check_parity

from jaxseq.ops import grouped_linear as ops
from jaxseq.reference import grouped_linear as reference

BFLOAT16 = jnp.dtype("bfloat16")
SIZES = {"even": [20, 21, 9], "empty groups": [0, 41, 0], "one row": [0, 0, 1], "none": [0, 0, 0]}
SLOTS = 16
TAKEN = [16, 0, 11]  # of the slots of each group


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng([0, *shape]).normal(size=shape)


def twin(x: np.ndarray, kernel: np.ndarray, sizes: list[int], slots: int = 0) -> np.ndarray:
    if not slots:
        return reference.grouped_linear(x, kernel, np.asarray(sizes))
    y = np.zeros((len(x), kernel.shape[2]))
    for g, size in enumerate(sizes):
        e = g * len(kernel) // len(sizes)
        y[slots * g :][:size] = x[slots * g :][:size] @ kernel[e]
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
@pytest.mark.parametrize("count", [3, 1])
def test_grouped_linear_in_slots_equals_twin(count: int, dtype: str) -> None:
    # Three groups with a matrix each, or with one for all.
    check_parity(
        lambda x, w: ops.grouped_linear(x, w, jnp.asarray(TAKEN, jnp.int32), slots=SLOTS),
        partial(twin, sizes=TAKEN, slots=SLOTS),
        draw(48, 6),
        draw(count, 6, 5),
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


@pytest.mark.parametrize(("slots", "count"), [(0, 3), (SLOTS, 3), (SLOTS, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_form_of_other_platforms_equals_that_of_cpus(dtype: str, slots: int, count: int) -> None:
    rule, sizes = ops.Rule(slots, jnp.dtype(dtype), jnp.dtype("float32")), jnp.asarray(TAKEN)
    x, dy, kernel = (jnp.asarray(draw(*s), dtype) for s in ((48, 6), (48, 5), (count, 6, 5)))

    @partial(jax.jit, static_argnums=0)
    def run(on_cpu: bool) -> tuple:
        rows = partial(ops._rows_on_cpu if on_cpu else ops._rows, rule)
        kernels = ops._kernels_on_cpu if on_cpu else ops._kernels
        there, back = rows("RD,DF->RF", x, kernel, sizes), rows("RF,DF->RD", dy, kernel, sizes)
        return there, back, kernels(rule, count, x, dy, sizes)

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
