"""Ops as users have them, with all that LLVM can do, where JAXSEQ_TEST_OPTIMISED asks for it."""

import os

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def compiled_as_for_users():
    """The other rooms are compiled quickly: see the conftest of all."""
    quick = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    jax.config.update("jax_disable_most_optimizations", quick and not optimised())
    yield
    jax.config.update("jax_disable_most_optimizations", quick)


def optimised() -> bool:
    """Whether this run is the one that takes its time."""
    return bool(os.environ.get("JAXSEQ_TEST_OPTIMISED"))
