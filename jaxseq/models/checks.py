"""What the configs of models check alike; a mistake names the option on the command line."""

from typing import Any

from jaxseq.errors import UserError


def option(name: str) -> str:
    """A field of a model's config as the command line spells it."""
    return f"--model.{name.replace('_', '-')}"


def check_counts(config: Any, *names: str) -> None:
    """Raises UserError for a field below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{option(name)} is {getattr(config, name)}; it must be at least 1")


def check_positive(config: Any, *names: str) -> None:
    """Raises UserError for a field that is not above 0; a dot leads into a nested config."""
    for name in names:
        value = config
        for part in name.split("."):
            value = getattr(value, part)
        if not value > 0:
            raise UserError(f"{option(name)} is {value}; it must be positive")


def check_shares(config: Any, *names: str) -> None:
    """Raises UserError for a share, of what is dropped say, outside [0, 1)."""
    for name in names:
        if not 0.0 <= getattr(config, name) < 1.0:
            raise UserError(f"{option(name)} is {getattr(config, name)}; it must be in [0, 1)")


def check_heads(config: Any) -> None:
    """Raises UserError where the heads do not divide the width, with the nearest number."""
    width, heads = config.width, config.num_heads
    if width % heads:
        fits = [n for n in range(1, width + 1) if width % n == 0]
        near = min(fits, key=lambda n: abs(n - heads))
        raise UserError(
            f"--model.num-heads {heads} does not divide --model.width {width}; the nearest that "
            f"does is {near}"
        )


def check_vocabulary(
    config: Any, vocab_size: int, name: str = "vocab_size", of: str = "the tokenizer"
) -> None:
    """Raises UserError for a vocabulary smaller than the `vocab_size` of what it is `of`."""
    if getattr(config, name) < vocab_size:
        raise UserError(
            f"{option(name)} {getattr(config, name)} is smaller than {of}'s {vocab_size}; leave "
            f"it at 0 to follow {of}"
        )


def check_context(config: Any, context: int, needs: str = "--data.context {}") -> None:
    """Raises UserError for fewer positions than the data needs; `needs` says what does."""
    if config.context < context:
        raise UserError(
            f"--model.context {config.context} is shorter than {needs.format(context)}; "
            "leave it at 0 to follow the data"
        )
