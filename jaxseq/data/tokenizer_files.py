"""The files in which tokenizers are published, read into the text of a tokenizer.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxseq.config import read_json
from jaxseq.data.text import read_documents
from jaxseq.data.tokenizer_definition import byte_symbols, check_merge, structure
from jaxseq.errors import UserError

if TYPE_CHECKING:
    import tokenizers

WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BYTE_BPE_SPECIALS = ("<|endoftext|>", "<s>", "<pad>", "</s>", "<unk>", "<mask>")
"""What GPT-2's, RoBERTa's and BART's vocabularies have."""

_MERGES_OF = {"vocab.json": "merges.txt", "encoder.json": "vocab.bpe"}
_BERT_LIKE = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer")
_GPT2_LIKE = ("GPT2Tokenizer", "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")
_CONVERT = (
    "make a tokenizer.json of it with transformers: "
    "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
)
ROLE_FIELDS = {
    "bos_token": "start",
    "eos_token": "end",
    "pad_token": "pad",
    "unk_token": "unknown",
    "cls_token": "classify",
    "sep_token": "separate",
    "mask_token": "mask",
}
"""The fields of a tokenizer_config.json that name special tokens, and our names of their roles."""


@dataclass(frozen=True)
class Definition:
    """What the files of a tokenizer say."""

    definition: str
    roles: tuple[tuple[str, str], ...]
    file: Path
    """The one with the vocabulary."""


def read_definition(path: Path, lowercase: bool | None) -> Definition | Path:
    """Read what `subwords.load_subwords` names; the Path of a tokenizer.json in our own form."""
    if not path.exists():
        raise UserError(
            f"there is no tokenizer {path}: name a tokenizer.json, a vocab.txt, a vocab.json with "
            "merges beside it, or a directory that holds one"
        )
    if not path.is_dir():
        return _from_file(path, {}, lowercase)
    config = _optional(path / "tokenizer_config.json")
    read = _from_file(_main_file(path), config, lowercase)
    return read if isinstance(read, Path) else _with_special_tokens(read, path, config)


def _from_file(file: Path, config: dict[str, Any], lowercase: bool | None) -> Definition | Path:
    if file.suffix == ".txt":
        _check_kind(file, config, _BERT_LIKE)
        if lowercase is None:
            lowercase = bool(config.get("do_lower_case", True))
        text = read_vocab_txt(
            file, lowercase, config.get("strip_accents"), config.get("tokenize_chinese_chars", True)
        )
        return Definition(text, (), file)
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise UserError(f"{file} is damaged (no object in it); restore it from a copy")
    if isinstance(tree.get("type"), str):
        return file
    if isinstance(tree.get("model"), int | None):  # "model" may be a piece of a vocabulary
        _check_kind(file, config, _GPT2_LIKE)
        return Definition(_gpt2(tree, file, _merges_of(file)), (), file)
    return Definition(json.dumps(tree, ensure_ascii=False), (), file)


def _check_kind(file: Path, config: dict[str, Any], known: tuple[str, ...]) -> None:
    kind = str(config.get("tokenizer_class") or known[0]).removesuffix("Fast")
    if kind not in known:
        raise UserError(f"{file}: a {kind} needs more than a vocabulary; {_CONVERT}")


def _main_file(directory: Path) -> Path:
    for name in ("tokenizer.json", *_MERGES_OF, "vocab.txt"):
        if (directory / name).is_file():
            return directory / name
    models = sorted(directory.glob("*.model"))
    if models:
        raise UserError(f"{models[0]}: SentencePiece files are not read; {_CONVERT}")
    raise UserError(
        f"no tokenizer in {directory}: it needs a tokenizer.json, a vocab.json with merges.txt, an "
        "encoder.json with vocab.bpe or a vocab.txt"
    )


# ---- BERT -----------------------------------------------------------------------------------


def read_vocab_txt(file: Path, lowercase: bool, strip_accents: bool | None, chinese: bool) -> str:
    """The tokenizer of a BERT vocabulary: the piece in line n, counted from 0, has id n.

    Raises UserError with the line for one that is empty or repeated, and for a missing [UNK].
    """
    vocab: dict[str, int] = {}
    lines = _text(file).split("\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines):
        piece = line.removesuffix("\r")
        if not piece:
            raise UserError(
                f"{file}, line {number + 1} is empty; fill it, for example with [unused{number}]"
            )
        if piece in vocab:
            raise UserError(
                f"{file}, line {number + 1} repeats '{piece}' of line {vocab[piece] + 1}; restore "
                "the file from a copy"
            )
        vocab[piece] = number
    if "[UNK]" not in vocab:
        raise UserError(f"{file} has no [UNK]: is it a WordPiece vocabulary?")
    return wordpiece(vocab, lowercase, strip_accents, chinese).to_str()


def wordpiece(
    vocab: dict[str, int], lowercase: bool, strip_accents: bool | None = None, chinese: bool = True
) -> "tokenizers.Tokenizer":
    """BERT's tokenizer with a vocabulary (Devlin et al. 2018, arXiv:1810.04805).

    Accents go with the case where `strip_accents` does not say; with `chinese` each Chinese
    character is a word.
    """
    from jaxseq.data.subwords import tokenizers_library

    library = tokenizers_library()
    model = library.models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    tokenizer.add_special_tokens([name for name in WORDPIECE_SPECIALS if name in vocab])
    if "[CLS]" in vocab and "[SEP]" in vocab:
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(name, vocab[name]) for name in ("[CLS]", "[SEP]")],
        )
    return tokenizer


# ---- GPT-2 ----------------------------------------------------------------------------------


def _merges_of(file: Path) -> Path:
    for vocab, merges in _MERGES_OF.items():
        if file.name.endswith(vocab):
            found = file.with_name(file.name.removesuffix(vocab) + merges)
            if found.is_file():
                return found
            raise UserError(f"{file} needs its merges in {found}, which is not there")
    names = " or ".join(_MERGES_OF)
    raise UserError(
        f"{file} is no tokenizer: a file of that kind is called tokenizer.json, {names}"
    )


def _gpt2(vocab: dict[str, Any], file: Path, merges_file: Path) -> str:
    """The byte-level BPE of a vocabulary {piece: id} and its merges, one a line, best first."""
    if sorted(vocab.values(), key=str) != sorted(range(len(vocab)), key=str):
        raise UserError(
            f"{file} is damaged: its {len(vocab)} pieces do not have the ids 0 to "
            f"{len(vocab) - 1}, each once; restore it from a copy"
        )
    missing = [byte for symbol, byte in byte_symbols().items() if symbol not in vocab]
    if missing:
        raise UserError(f"{file} is no byte-level vocabulary: it lacks the byte {missing[0]:#04x}")
    merges = []
    for number, line in enumerate(_text(merges_file).split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        try:
            merges.append(check_merge(line, vocab, "", number))
        except ValueError as error:
            what = str(error).removeprefix(f"merge {number} ")
            raise UserError(
                f"{merges_file}, line {number} {what} ({file}); take both files from one place"
            ) from error
    return byte_bpe(vocab, merges).to_str()


def byte_bpe(vocab: dict[str, int], merges: list[tuple[str, str]]) -> "tokenizers.Tokenizer":
    """GPT-2's tokenizer with a vocabulary and merges (Radford et al. 2019)."""
    from jaxseq.data.subwords import tokenizers_library

    library = tokenizers_library()
    tokenizer = library.Tokenizer(library.models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.post_processor = library.processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([name for name in BYTE_BPE_SPECIALS if name in vocab])
    return tokenizer


# ---- Hugging Face ---------------------------------------------------------------------------


def _with_special_tokens(read: Definition, directory: Path, config: dict[str, Any]) -> Definition:
    """The definition, with the special tokens that only the files beside it name."""
    from jaxseq.data.subwords import from_definition, tokenizers_library

    said = _optional(directory / "special_tokens_map.json") | config
    roles = {
        role: _content(said[name])
        for name, role in ROLE_FIELDS.items()
        if said.get(name) is not None
    }
    numbered = said.get("added_tokens_decoder") or {}
    named = [numbered[number] for number in sorted(numbered, key=int)]
    extra = said.get("additional_special_tokens") or []
    try:
        structure(json.loads(read.definition))  # before the library, which may abort
        tokenizer = from_definition(read.definition)
    except ValueError as error:
        raise UserError(f"{read.file} is damaged ({error}); restore it from a copy") from error
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    for token in [*named, *roles.values(), *extra]:
        fields = token if isinstance(token, dict) else {}
        content = _content(token)
        if content in added:
            continue
        added.add(content)
        flags = {name: fields.get(name, False) for name in ("single_word", "lstrip", "rstrip")}
        new = tokenizers_library().AddedToken(content, normalized=False, **flags)
        if fields.get("special", True):
            tokenizer.add_special_tokens([new])
        else:
            tokenizer.add_tokens([new])
    for number, token in numbered.items():
        found = tokenizer.token_to_id(_content(token))
        if found != int(number):
            raise UserError(
                f"{directory / 'tokenizer_config.json'} gives '{_content(token)}' the id {number}, "
                f"but in {read.file} it has {found}; take both files from one place"
            )
    return Definition(tokenizer.to_str(), tuple(sorted(roles.items())), read.file)


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _optional(file: Path) -> dict[str, Any]:
    """The object in a JSON file; nothing where there is no such file."""
    if not file.is_file():
        return {}
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise UserError(f"{file} is damaged (no object in it); restore it from a copy")
    return tree


def _text(file: Path) -> str:
    return read_documents(file)[0].text
