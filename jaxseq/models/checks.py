"""What the configs of models check alike; a mistake names the option on the command line."""

from typing import Any

from jaxseq.errors import UserError
from jaxseq.option_checks import option


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
            f"{option('model', name)} {getattr(config, name)} is smaller than {of}'s "
            f"{vocab_size}; leave it at 0 to follow {of}"
        )


def check_context(config: Any, context: int, needs: str = "--data.context {}") -> None:
    """Raises UserError for fewer positions than the data needs; `needs` says what does."""
    if config.context < context:
        raise UserError(
            f"--model.context {config.context} is shorter than {needs.format(context)}; "
            "leave it at 0 to follow the data"
        )
