"""A small WordPiece tokenizer for tests, made of the pieces that it is to have."""

import functools

from jaxseq.data.subwords import SubwordTokenizer
from jaxseq.data.tokenizer_files import WORDPIECE_SPECIALS, wordpiece

CLASSIFY, SEPARATE, MASK = (WORDPIECE_SPECIALS.index(name) for name in ("[CLS]", "[SEP]", "[MASK]"))


@functools.cache
def word_pieces(*pieces: str) -> SubwordTokenizer:
    """[PAD] [UNK] [CLS] [SEP] [MASK] with ids 0 to 4, and `pieces` behind them."""
    vocabulary = {piece: number for number, piece in enumerate((*WORDPIECE_SPECIALS, *pieces))}
    return SubwordTokenizer(wordpiece(vocabulary, lowercase=True).to_str())
