"""What the models that speak have in common."""

from flax.struct import PyTreeNode

from jaxseq.errors import UserError
from jaxseq.ops.spectral import FrontEnd
from jaxseq.typing import Array, Float, Int


class Spoken(PyTreeNode):
    """Log-mel frames, how many of them each row has, and the token that each frame speaks.

    Frames and alignments are 0 behind a row's length.
    """

    log_mels: Float[Array, "B T M"]
    lengths: Int[Array, "B"]
    alignments: Float[Array, "B T S"]


def check_front_end(front_end: FrontEnd) -> None:
    """Raises UserError for a front end that computes nothing."""
    try:
        front_end.check()
    except ValueError as error:
        raise UserError(f"--model.front-end: {error}") from error
