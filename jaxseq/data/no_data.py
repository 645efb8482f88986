"""What stands for the data of a run whose parameters come from elsewhere."""

from dataclasses import dataclass
from typing import Any, NoReturn

from jaxseq.errors import UserError


@dataclass(frozen=True)
class NoData:
    """None: such a run writes and answers, and is what others start from."""

    imported_from: str
    """Where the parameters come from."""

    def load(self, tokenizer: Any = None) -> NoReturn:
        """Raise UserError, which says how to come to data."""
        raise UserError(
            f"the run was imported from {self.imported_from} and has no data of its own; fine-tune "
            "it on some (jaxseq train EXPERIMENT.py --finetune.from-run RUN_DIR), and evaluate that"
        )
