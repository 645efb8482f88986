"""The world of the tests: eight CPU devices, exact matmuls, no silent broadcasting.

Warnings are errors and annotations are checked at run time: see [tool.pytest] in pyproject.toml.
"""

import gc
import os
import signal
import sys
from pathlib import Path

import jax
import pytest
from hypothesis import settings

# Tests import what they share (compare.py) by its bare name, whatever directory pytest starts in.
sys.path.insert(0, str(Path(__file__).parent))

# A shell's background jobs ignore Ctrl-C, and tests of it would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")

# XLA rewrites programs as ever, and LLVM then takes less time over each than running it does. Over
# the ops CI has it take its time on one Python: see tests/ops/conftest.py.
quick = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
jax.config.update("jax_disable_most_optimizations", quick == "1")

# XLA's code generator for fusions takes two thirds of the time of such a compilation; up to JAX
# 0.10 the one before it is there too. CI holds the newer one against PyTorch.
flags = os.environ.get("XLA_FLAGS", "")
if jax.__version_info__ < (0, 11) and "fusion_emitters" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()

# Programs compiled once serve every test, every process that a test starts, and the next run.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(CACHE)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
# Speeds measured while tests run are not those of the machine.
os.environ.setdefault("JAXSEQ_CACHE", str(CACHE.with_name("jaxseq")))


def pytest_configure(config):
    # A process killed as it writes leaves a torn entry, which is compiled anew and never mended.
    torn = "ignore:Error reading persistent compilation cache entry:UserWarning"
    config.addinivalue_line("filterwarnings", torn)


def pytest_collection_finish():
    gc.freeze()  # what the imports made is never garbage, and need not be looked at again


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Each compiled program maps memory, and Linux aborts a process at 65,530 mappings."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
        gc.collect()


# The same examples on every run; `--hypothesis-profile default` draws new ones.
settings.register_profile("jaxseq", deadline=None, derandomize=True, database=None)
settings.load_profile("jaxseq")
