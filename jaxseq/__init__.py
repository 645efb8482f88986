"""jaxseq: sequence models in JAX for accelerator research.

run = jaxseq.load("runs/sentiment")
run.predict(["a film that stays with you"])
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxseq.training.run_directory import TrainedRun

__version__ = "0.1.0"


def load(run_dir: str | Path, checkpoint: str = "last") -> "TrainedRun":
    """A trained run: its parameters, tokenizer and config, and what it answers.

    `checkpoint` is "last", "best" (by validation loss on the way) or the step of one that was
    kept. Raises UserError where there is no run, no checkpoint, or not that one.
    """
    from jaxseq.training.run_directory import read_run  # `import jaxseq` alone is light

    return read_run(Path(run_dir), checkpoint)
