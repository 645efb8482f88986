"""Extracts of a text: the lead, and the oracle against all choices of sentences."""

import itertools
import random

from jaxseq.data.extracts import extractive_oracle, lead, ngram_f1, words

SENTENCES = ["Cats are common.", "We present Foo, a cat.", "It purrs.", "Foo is small and purrs."]


def test_lead() -> None:
    assert lead(SENTENCES, 2) == "Cats are common.\nWe present Foo, a cat."
    assert lead(SENTENCES[:1], 3) == "Cats are common."


def total(written: str, references: list[str]) -> float:
    found = words(written)
    return max(sum(ngram_f1(found, words(x), n) for n in (1, 2)) for x in references)


def test_the_oracle_adds_what_raises_its_score_and_keeps_the_order() -> None:
    references = ["Foo is a small cat", "foo is small and purrs , it purrs"]
    assert extractive_oracle(SENTENCES, references) == "It purrs.\nFoo is small and purrs."
    assert extractive_oracle(SENTENCES, references, most=1) == "Foo is small and purrs."
    assert extractive_oracle(SENTENCES, ["unrelated"]) == ""


def test_the_oracle_of_one_sentence_is_the_best_of_all_and_of_more_is_no_worse() -> None:
    draw = random.Random(0)
    for _ in range(50):
        sentences = [" ".join(draw.choices("abcdef", k=draw.randint(1, 5))) for _ in range(4)]
        references = [" ".join(draw.choices("abcdef", k=6)) for _ in range(2)]
        one, three = (
            total(extractive_oracle(sentences, references, k), references) for k in (1, 3)
        )
        assert one == max(total(sentence, references) for sentence in sentences)
        every = [
            total("\n".join(chosen), references)
            for k in (1, 2, 3)
            for chosen in itertools.combinations(sentences, k)
        ]
        assert one <= three <= max(every)
