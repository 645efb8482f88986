"""Made-up names of six made-up languages, which differ in their sounds and endings."""

import random
from dataclasses import dataclass

from jaxseq.data.corpus import Corpus
from jaxseq.data.labelled import ClassCoder
from jaxseq.data.made_up_reviews import MadeUpLabelled
from jaxseq.data.ragged import Ragged
from jaxseq.data.tokenizers import Tokenizer

LANGUAGES = {
    "Arvish": (("b", "d", "l", "m", "r", "v"), ("a", "e", "o"), ("ani", "elli", "")),
    "Brakic": (("k", "g", "r", "br", "st", "z"), ("a", "u", "i"), ("ov", "ek", "uk")),
    "Cheno": (("sh", "ch", "m", "n", "t", "k"), ("i", "o", "u"), ("", "ko", "ta")),
    "Dunlic": (("d", "f", "l", "m", "gl", "br"), ("a", "o", "ea"), ("gh", "nnan", "lly")),
    "Estran": (("b", "l", "m", "r", "s", "t"), ("a", "e", "i"), ("ez", "os", "ado")),
    "Folden": (("f", "h", "l", "n", "st", "v"), ("e", "o", "y"), ("sen", "berg", "dahl")),
}
"""Of each: the consonants of its syllables, their vowels, and its endings."""


def write_name(draw: random.Random) -> tuple[str, str]:
    """(name, language): one to three syllables, and an ending in three names of four."""
    language = draw.choice(tuple(LANGUAGES))
    consonants, vowels, endings = LANGUAGES[language]
    count = draw.randint(1, 3)
    name = "".join(draw.choice(consonants) + draw.choice(vowels) for _ in range(count))
    if draw.random() < 0.75:
        name += draw.choice(endings)
    return name.capitalize(), language


@dataclass(frozen=True, kw_only=True)
class MadeUpNames(MadeUpLabelled):
    """Names and their language."""

    def load(self, coder: ClassCoder | Tokenizer | None = None) -> Corpus[ClassCoder, Ragged]:
        """Make up the names; UserError for a bad field."""
        return self.made(write_name, coder)
