"""Where compiled programs are kept, and for how long."""

import os

import jax
import pytest

from jaxseq.training.compile_cache import keep_compiled_programs


@pytest.fixture
def unset():
    """No folder is named; the tests' own comes back afterwards."""
    own = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", own)


def test_a_folder_of_ones_own_stays():
    own = jax.config.values["jax_compilation_cache_dir"]
    assert keep_compiled_programs() is None
    assert jax.config.values["jax_compilation_cache_dir"] == own


@pytest.mark.usefixtures("unset")
def test_the_newest_programs_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXSEQ_CACHE", str(tmp_path))
    folder = keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(folder)
    assert folder.parent == tmp_path / "compiled"
    folder.mkdir(parents=True)
    for age in range(4):
        file = folder / f"jit_step-{age}-cache"
        file.write_bytes(b"x" * 100)
        os.utime(file, (1e9 - age, 1e9 - age))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs(limit=250)
    assert sorted(path.name for path in folder.iterdir()) == [
        "jit_step-0-cache",
        "jit_step-1-cache",
    ]
