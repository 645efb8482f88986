"""The tokenizer of a task that puts special tokens around its texts."""

from typing import Any

from jaxseq.data.named_tokenizer import KINDS, made_tokenizer
from jaxseq.data.subwords import ROLE_TOKENS, Role, SubwordTokenizer
from jaxseq.errors import UserError


def marked_tokenizer(tokenizer: Any, name: str, *roles: Role) -> SubwordTokenizer:
    """`tokenizer`, or where it is None that of the path `name`, which has tokens for all `roles`.

    Raises UserError where it has not; characters, bytes and words never have.
    """
    if tokenizer is None and name not in KINDS:
        tokenizer = made_tokenizer(name, ())
    if not isinstance(tokenizer, SubwordTokenizer) or not all(map(tokenizer.has, roles)):
        what = f"'{name}'" if tokenizer is None else name
        names = [ROLE_TOKENS[role][0] for role in roles]
        raise UserError(
            f"the tokenizer {what} lacks one of the special tokens {', '.join(names)}, which this "
            "task needs; make one that has them (jaxseq tokenizer OUT_DIR --data.path TEXT --kind "
            "wordpiece) and say --data.tokenizer OUT_DIR"
        )
    return tokenizer
