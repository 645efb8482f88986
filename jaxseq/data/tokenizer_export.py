"""A subword tokenizer in the files that transformers reads."""

import json
from pathlib import Path
from typing import get_args

from jaxseq.data.subwords import Role, SubwordTokenizer
from jaxseq.data.tokenizer_files import ROLE_FIELDS


def write_huggingface_tokenizer(
    tokenizer: SubwordTokenizer, directory: Path, *, context: int, has_types: bool
) -> None:
    """Write the tokenizer.json and the tokenizer_config.json of a model, into its directory.

    `context` is the longest text in tokens that the model takes (0: any), and `has_types` whether
    it takes types of tokens. AutoTokenizer reads them, and `load_subwords`.
    """
    fields = {role: field for field, role in ROLE_FIELDS.items()}
    config = {
        # The definition says all; what other classes would add to it is for old files.
        "tokenizer_class": "PreTrainedTokenizerFast",
        # A GPT-2 that is given types adds embeddings to its inputs.
        "model_input_names": [
            *("input_ids", *(("token_type_ids",) if has_types else ()), "attention_mask")
        ],
        "clean_up_tokenization_spaces": False,
        **{fields[role]: token for role, token in special_tokens(tokenizer).items()},
    }
    if context:
        config["model_max_length"] = context
    (directory / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")


def special_tokens(tokenizer: SubwordTokenizer) -> dict[Role, str]:
    """The token of each role that there is: as the tokenizer's files said, or by the usual names.

    A name that stands for several roles is taken for all of them.
    """
    found: dict[Role, str] = {}
    for role in get_args(Role):
        if tokenizer.has(role) and (not tokenizer.roles or role in dict(tokenizer.roles)):
            token = tokenizer.library.id_to_token(tokenizer.special(role))
            assert token is not None, "a special token is a token"
            found[role] = token
    return found
