"""The twins stand on NumPy alone, or they would be no check on anything."""

import subprocess
import sys

IMPORT_ALL = """
import importlib, pkgutil, sys
import numpy
before = set(sys.modules)
import jaxseq.reference
for module in pkgutil.iter_modules(jaxseq.reference.__path__):
    importlib.import_module(f"jaxseq.reference.{module.name}")
print(*{name.split(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
print(*(name for name in sys.modules if name.startswith("jaxseq.")))
"""


def test_twins_import_numpy_alone() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL],
        check=True,
        capture_output=True,
        text=True,
    )
    packages, modules = result.stdout.splitlines()
    assert packages.split() == ["jaxseq"]
    assert all(name.startswith("jaxseq.reference") for name in modules.split())
    assert "jaxseq.reference.gpt" in modules
