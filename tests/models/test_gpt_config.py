"""What GPTConfig fills in, and what it says to sizes that do not fit together."""

import dataclasses

import pytest

from jaxseq.errors import UserError
from jaxseq.models.gpt import GPTConfig
from jaxseq.ops.positions import Rotary

DATA = {"vocab_size": 65, "context": 64}


def test_zeros_follow_the_data_and_the_other_sizes() -> None:
    config = GPTConfig(width=96, num_heads=6).resolve(**DATA)
    assert (config.vocab_size, config.context) == (65, 64)
    assert (config.num_kv_heads, config.mlp_hidden) == (6, 384)


def test_what_is_given_stays() -> None:
    given = GPTConfig(vocab_size=70, context=128, num_kv_heads=2, head_size=48, mlp_hidden=100)
    assert given.resolve(**DATA) == given
    assert given.resolve(**DATA).resolve(**DATA) == given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_layers": 0}, r"--model\.num-layers is 0; it must be at least 1"),
        ({"width": 0}, r"--model\.width is 0"),
        ({"num_heads": -1}, r"--model\.num-heads is -1"),
        ({"unroll_layers": 0}, r"--model\.unroll-layers is 0"),
        ({"num_heads": 3}, r"--model\.num-heads 3 does not divide --model\.width 128.* is 2"),
        ({"num_heads": 100}, r"--model\.num-heads 100 .* is 128"),
        ({"num_kv_heads": 3}, r"--model\.num-kv-heads 3 does not divide --model\.num-heads 4"),
        ({"num_kv_heads": 8}, r"--model\.num-kv-heads 8 does not divide"),
        (
            {"width": 12, "positions": "rotary"},
            r"even head size; --model\.width 12 over --model\.num-heads 4",
        ),
        ({"dropout": 1.0}, r"--model\.dropout is 1\.0; it must be at least 0 and below 1"),
        ({"dropout": -0.1}, r"--model\.dropout is -0\.1"),
        ({"dropout": float("nan")}, r"--model\.dropout is nan"),
        ({"vocab_size": 64}, r"--model\.vocab-size 64 is smaller than the tokenizer's 65"),
        ({"vocab_size": -1}, r"--model\.vocab-size -1"),
        ({"context": 63}, r"--model\.context 63 is shorter than --data\.context 64"),
        ({"context": -1}, r"--model\.context -1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_sizes_that_do_not_fit_name_the_option(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        GPTConfig(**changes).resolve(**DATA)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": -2}, r"--model\.num-kv-heads is -2"),
        ({"mlp_hidden": -5}, r"--model\.mlp-hidden"),
        ({"rotary": Rotary(base=0.0)}, r"--model\.rotary\.base is 0.0"),
        ({"windows": (4, -1)}, r"--model\.windows is -1"),
        ({"soft_cap": -1.0}, r"--model\.soft-cap"),
    ],
)
def test_sizes_below_zero_name_the_option(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GPTConfig(**changes).resolve(**DATA)


def test_an_odd_head_size_is_fine_with_learned_positions() -> None:
    assert GPTConfig(width=12, num_heads=4).resolve(**DATA).width == 12


def test_the_config_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPTConfig().width = 3
