"""Token streams cut into windows of one context length, on demand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxseq.errors import UserError
from jaxseq.typing import Int, Shaped


class TokenStream(NamedTuple):
    """The tokens of documents one behind another, in memory or mapped from disk."""

    tokens: Shaped[np.ndarray, " n"]
    """Of any integer type, unsigned too; nobody writes into them."""

    starts: Int[np.ndarray, " documents"]
    """Where each document that has a token begins."""


def join(documents: Sequence[Int[np.ndarray, " _"]]) -> TokenStream:
    """The stream of `documents`, int32, in memory."""
    lengths = np.array([len(document) for document in documents if len(document)], np.int64)
    tokens = np.concatenate([np.zeros(0, np.int32), *documents]).astype(np.int32, copy=False)
    # Windows are views of this array: nobody may write through them.
    tokens.flags.writeable = False
    return TokenStream(tokens, np.cumsum(lengths) - lengths)


class Windows:
    """Windows of T tokens with stride T over the concatenated documents x_0 ... x_{n-1}.

    Window i is a dict of arrays of shape (T,), where t counts inside the window:

    - `inputs` int32: x_{iT + t};
    - `targets` int32: the next token, x_{iT + t + 1};
    - `mask` bool: True where the target counts. False, with ids 0, past the end of the text.

    The last, partial window is dropped (`drop_remainder`) or padded; padded, every token but the
    first is a target exactly once. With `separate`, documents are kept apart:

    - `segments` int32: the number of the input's document inside the window, from 1; 0 is padding;
    - `positions` int32: from 0 at the start of each document or of the window;
    - `mask` is False also where the target belongs to another document than its input,

    so that attention among equal segments never looks across documents.
    """

    def __init__(
        self,
        documents: Sequence[Int[np.ndarray, " _"]] | TokenStream,
        context: int,
        *,
        separate: bool = False,
        drop_remainder: bool = False,
        name: str = "corpus",
    ):
        """Concatenate `documents`; `name` says in errors which split this is.

        A stream on disk stays there: only what a window needs is read, when it is.

        Raises UserError where there are fewer than context + 1 tokens, or, with `separate`, no
        document of two tokens.
        """
        stream = documents if isinstance(documents, TokenStream) else join(documents)
        tokens = len(stream.tokens)
        if tokens < context + 1:
            raise UserError(
                f"the {name} split has {tokens} tokens, fewer than the {context + 1} that a "
                f"context of {context} needs: give a shorter --data.context or more text"
            )
        if separate and tokens == len(stream.starts):
            raise UserError(
                f"every document of the {name} split is a single token, so that nothing can be "
                "predicted: give longer documents or drop --data.separate-documents"
            )
        self.context = context
        self.tokens, self._starts = stream
        self._separate = separate
        full, rest = divmod(tokens - 1, context)
        self._length = full + (rest > 0 and not drop_remainder)

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._length

    def __getitem__(self, index: int) -> dict[str, Shaped[np.ndarray, " T"]]:
        """Return window `index` (IndexError outside 0..len-1)."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        start = index * self.context
        tokens = self.tokens[start : start + self.context + 1].astype(np.int32, copy=False)
        pad = self.context + 1 - len(tokens)
        if pad:
            tokens = np.pad(tokens, (0, pad))
        valid = np.arange(self.context) < self.context - pad
        # The last token has no target: as an input it is padding too.
        window = {
            "inputs": np.where(valid, tokens[:-1], 0),
            "targets": tokens[1:],
            "mask": valid,
        }
        if not self._separate:
            return window
        places = np.arange(start, start + self.context + 1)
        document = np.searchsorted(self._starts, places, side="right") - 1
        first = np.maximum(self._starts[document], start)[:-1]
        return window | {
            "mask": valid & (document[1:] == document[:-1]),
            "segments": np.where(valid, document[:-1] - document[0] + 1, 0).astype(np.int32),
            "positions": np.where(valid, places[:-1] - first, 0).astype(np.int32),
        }
