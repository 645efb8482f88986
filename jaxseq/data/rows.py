"""What a row of a source is, and what becomes of one that cannot be used."""

import logging
from collections import Counter
from typing import Any, Literal, NamedTuple

from jaxseq.errors import UserError

OnBadRow = Literal["error", "skip"]
"""Whether a row that cannot be used stops the load, or is left out, counted and reported."""

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One row and where it came from."""

    place: str
    """`FILE, line N` (`item`, `row` or `record` where there are no lines), counted from 1."""

    fields: dict[str, Any]
    """The columns by name."""


class BadRows:
    """What becomes of rows that cannot be used: an error, or a count of them by reason.

    One of them serves all the files of a load; at its end `report` says what was left out.
    """

    def __init__(self, policy: OnBadRow = "error"):
        """Raise on the first bad row ("error"), or count it and go on ("skip")."""
        self.policy = policy
        self.reasons: Counter[str] = Counter()

    def add(self, place: str, reason: str, detail: str = "") -> None:
        """Count a bad row by `reason`, or raise UserError `PLACE: REASON: DETAIL; ...`.

        `reason` is one of a few fixed phrases; `detail` says what it is about this one.
        """
        if self.policy == "error":
            what = f"{reason}: {detail}" if detail else reason
            raise UserError(
                f"{place}: {what}; mend it, or leave such rows out with --data.on-bad-row skip"
            )
        self.reasons[reason] += 1

    def report(self) -> None:
        """Log what was left out, if anything, as one warning."""
        if self.reasons:
            reasons = ", ".join(f"{count:,} {name}" for name, count in self.reasons.most_common())
            _log.warning("left out bad rows: %s", reasons)
