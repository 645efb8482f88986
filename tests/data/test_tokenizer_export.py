import json

import numpy as np
from small_subwords import word_pieces

from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import SubwordTokenizer, load_subwords
from jaxseq.data.tokenizer_export import special_tokens, write_huggingface_tokenizer


def written(tokenizer, folder, **options):
    """(the fields of tokenizer_config.json, the tokenizer read back)."""
    write_huggingface_tokenizer(tokenizer, folder, **options)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return config, load_subwords(folder)


def test_a_wordpiece_comes_back_with_its_roles(tmp_path):
    tokenizer = word_pieces("the", "cat", "caf\u00e9")
    config, again = written(tokenizer, tmp_path, context=12, has_types=True)
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "model_max_length": 12,
    }
    assert json.loads(again.definition) == json.loads(tokenizer.definition)
    assert special_tokens(again) == special_tokens(tokenizer)
    np.testing.assert_array_equal(again.encode("the dog"), tokenizer.encode("the dog"))


def test_one_token_may_have_two_roles(tmp_path):
    tokenizer = train_subwords("byte-bpe", iter(["a cat"]), 260)
    config, _ = written(tokenizer, tmp_path, context=0, has_types=False)
    assert (config["bos_token"], config["eos_token"]) == ("<|endoftext|>",) * 2
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"pad_token", "model_max_length"} & config.keys()


def test_roles_that_the_files_said_are_all(tmp_path):
    """[PAD] is there, but as no padding."""
    definition = word_pieces("the").definition
    tokenizer = SubwordTokenizer(definition, (("end", "[SEP]"), ("unknown", "[UNK]")))
    config, again = written(tokenizer, tmp_path, context=0, has_types=False)
    assert (config["eos_token"], config["unk_token"]) == ("[SEP]", "[UNK]")
    assert not {"pad_token", "sep_token", "cls_token"} & config.keys()
    assert again.special("end") == tokenizer.special("separate")
