"""How close is close: one table of tolerances by dtype, and the comparison of an op with its twin.

A tolerance is never widened for a failing test: the cause is found.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np

DTYPES = ("float64", "float32", "bfloat16")

# Largest error allowed, as a share of the largest expected magnitude (or of 1 where that is less).
VALUE_TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}
# Gradients are compared with central differences, which are themselves good to about 1e-10.
GRADIENT_TOLERANCES = {"float64": 1e-9, "float32": 1e-5, "bfloat16": 2e-2}


def assert_close(actual: Any, expected: Any, dtype: str, what: str = "") -> None:
    """Every array of the tree `actual` is within `dtype`'s tolerance of that of `expected`."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected), what
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        a, e = np.asarray(a, np.float64), np.asarray(e, np.float64)
        assert a.shape == e.shape, f"{what}{jax.tree_util.keystr(path)}: {a.shape} != {e.shape}"
        atol = VALUE_TOLERANCES[dtype] * max(1.0, np.max(np.abs(e), initial=0.0))
        message = f"{what}{jax.tree_util.keystr(path)} in {dtype}"
        np.testing.assert_allclose(a, e, rtol=0, atol=atol, equal_nan=False, err_msg=message)


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Every array of the tree `actual` is bitwise that of `expected`, which holds no NaN."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected), what
    for (path, a), e in zip(
        jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
    ):
        message = f"{what}{jax.tree_util.keystr(path)}"
        np.testing.assert_array_equal(np.asarray(a), np.asarray(e), strict=True, err_msg=message)
        assert not np.isnan(np.asarray(e, np.float64)).any(), message


def check_parity(
    function: Callable[..., Any],
    twin: Callable[..., Any],
    *arguments: Any,
    dtype: str,
    compute_dtype: str | None = None,
) -> None:
    """`function` and its NumPy twin agree, and so do their gradients.

    `arguments` are trees of floating-point arrays. They are rounded to `dtype` first, so that both
    sides see the same numbers. The gradient of a random weighted sum of the outputs is checked
    for each array of the arguments by itself, along a random direction, against central
    differences of the twin. `compute_dtype` names the tolerance when `function` computes in less
    than `dtype`.
    """
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        arguments = jax.tree.map(lambda x: jnp.asarray(x, dtype), arguments)
        exact = jax.tree.map(lambda x: np.asarray(x, np.float64), arguments)
        expected = twin(*exact)
        # Eighths are exact in every dtype.
        cotangent = jax.tree.map(lambda y: rng.integers(-16, 17, np.shape(y)) / 8, expected)

        @jax.jit
        def value_and_gradient(arguments, cotangent):
            value, pullback = jax.vjp(function, *arguments)
            return value, pullback(jax.tree.map(lambda c, v: c.astype(v.dtype), cotangent, value))

        value, gradient = value_and_gradient(arguments, jax.tree.map(jnp.asarray, cotangent))
    assert_close(value, expected, compute_dtype or dtype, "value")

    def weighted_sum(flat: list[np.ndarray]) -> float:
        outputs = twin(*jax.tree.unflatten(structure, flat))
        products = jax.tree.map(lambda c, y: np.sum(c * y), cotangent, outputs)
        return float(sum(jax.tree.leaves(products)))

    leaves, structure = jax.tree.flatten(exact)
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(gradient)]
    tolerance = GRADIENT_TOLERANCES[compute_dtype or dtype]
    for i, (path, actual) in enumerate(zip(paths, jax.tree.leaves(gradient), strict=True)):
        actual = np.asarray(actual, np.float64)
        direction = rng.normal(size=actual.shape)
        direction /= max(1e-300, np.linalg.norm(direction))
        with unchecked_annotations():  # of a twin that was called above
            slope = central_difference(
                lambda step, i=i, d=direction: weighted_sum(
                    [*leaves[:i], leaves[i] + step * d, *leaves[i + 1 :]]
                )
            )
        error = abs(np.sum(actual * direction) - slope)
        scale = max(1.0, np.max(np.abs(actual), initial=0.0))
        message = f"gradient{jax.tree_util.keystr(path)} in {dtype}: error {error} of {scale}"
        assert error <= tolerance * scale, message


@contextlib.contextmanager
def unchecked_annotations() -> Generator[None, None, None]:
    """Calls without the checks of shapes, which take longer than a small twin's arithmetic."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def central_difference(function: Callable[[float], float], step: float = 1e-3) -> float:
    """The derivative of `function` at 0 with an error of order step^4."""
    near = function(step) - function(-step)
    far = function(2 * step) - function(-2 * step)
    return (8 * near - far) / (12 * step)


def in_dtype(config: Any, dtype: str) -> Any:
    """The config computing in `dtype`; float64 is the tests' own and no option for users."""
    config = dataclasses.replace(config)
    object.__setattr__(config, "dtype", dtype)
    return config


def float32(tree: Any) -> Any:
    """The arrays of a tree in float32, as models have their parameters."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def random_params(module: Any, *arguments: Any, seed: int = 0, **keywords: Any) -> dict[str, Any]:
    """Parameters of a Flax module drawn so that every one of them matters, as NumPy arrays."""
    import flax.linen as nn

    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *arguments, **keywords))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        noise = rng.normal(size=leaf.shape)
        if name == "kernel":
            return noise / np.sqrt(leaf.shape[-2])
        return 1 + 0.2 * noise if name == "scale" else 0.5 * noise

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes)["params"])
