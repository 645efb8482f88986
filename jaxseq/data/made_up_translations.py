"""Numbers in English words and in French ones: pairs to translate, without any file."""

import random
from dataclasses import dataclass

from jaxseq.data.corpus import Corpus
from jaxseq.data.made_up_pairs import MadeUpPairs
from jaxseq.data.pair_tokenizers import PairCoder, PairTokenizer
from jaxseq.data.ragged import Ragged

_ENGLISH = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)  # fmt: skip
_ENGLISH_TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
_FRENCH = (
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix", "onze",
    "douze", "treize", "quatorze", "quinze", "seize", "dix-sept", "dix-huit", "dix-neuf",
)  # fmt: skip
_FRENCH_TENS = (
    "vingt", "trente", "quarante", "cinquante", "soixante", "soixante", "quatre-vingt",
    "quatre-vingt",
)  # fmt: skip

LARGEST = 999_999


def in_english(number: int) -> str:
    """The words of 0 to 999,999: "twenty-one thousand four hundred and seven"."""
    if number < 20:
        return _ENGLISH[number]
    if number < 100:
        rest = f"-{_ENGLISH[number % 10]}" if number % 10 else ""
        return _ENGLISH_TENS[number // 10 - 2] + rest
    if number < 1000:
        rest = f" and {in_english(number % 100)}" if number % 100 else ""
        return f"{_ENGLISH[number // 100]} hundred{rest}"
    rest, small = number % 1000, 0 < number % 1000 < 100
    joined = f" {'and ' if small else ''}{in_english(rest)}" if rest else ""
    return f"{in_english(number // 1000)} thousand{joined}"


def in_french(number: int) -> str:
    """The words of 0 to 999,999 as France writes them: "soixante et onze", "quatre-vingts"."""
    if number < 20:
        return _FRENCH[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        if tens in (7, 9):  # counted on from sixty and from eighty
            tens, ones = tens - 1, ones + 10
        base = _FRENCH_TENS[tens - 2]
        if ones == 0:
            return f"{base}s" if tens == 8 else base
        if ones in (1, 11) and tens != 8:
            return f"{base} et {_FRENCH[ones]}"
        return f"{base}-{_FRENCH[ones]}"
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        hundred = "cent" if hundreds == 1 else f"{_FRENCH[hundreds]} cent"
        if rest == 0:
            return f"{hundred}s" if hundreds > 1 else hundred
        return f"{hundred} {in_french(rest)}"
    thousands, rest = divmod(number, 1000)
    # Before mille, which is no noun, quatre-vingts and cents lose their s.
    counted = "" if thousands == 1 else f"{_before_mille(in_french(thousands))} "
    return f"{counted}mille" + (f" {in_french(rest)}" if rest else "")


def _before_mille(words: str) -> str:
    return words.removesuffix("s") if words.endswith(("vingts", "cents")) else words


@dataclass(frozen=True, kw_only=True)
class MadeUpTranslations(MadeUpPairs):
    """Numbers from 0 to 999,999 in words, no number in two splits."""

    def load(self, tokenizer: PairTokenizer | None = None) -> Corpus[PairCoder, Ragged]:
        """Make up the pairs, by word, with references as texts; UserError for a bad count."""
        numbers = random.Random(self.seed).sample(range(LARGEST + 1), self.count())
        made = [(in_english(number), in_french(number)) for number in numbers]
        return self.corpus(made, "word", tokenizer, references=True)
