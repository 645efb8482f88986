"""`jaxseq convert`: checkpoints in, trained on, and out again."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from compare import assert_same
from hub_checkpoints import draw_tensors, write_hub
from small_subwords import word_pieces
from tiny import call, write_experiment

from jaxseq.data.corpus import TextData
from jaxseq.data.no_data import NoData
from jaxseq.data.subword_training import train_subwords
from jaxseq.data.subwords import load_subwords
from jaxseq.data.tokenizers import CharTokenizer
from jaxseq.interop.huggingface import read_checkpoint
from jaxseq.models.gpt import GPTConfig
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.nn.parameters import flatten
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.lora import merge
from jaxseq.training.run_directory import read_run, write_params_run

TEXT = "the cat sat on a mat and slept under the caf\u00e9. " * 3
LINES = {
    "bert": "the [MASK] sat",
    "bert, labels": "the cat",
    "bert, tags": "the cat sat",
    "bert, spans": "the cat?\tthe cat sat",
}
ANSWERS = {
    "bert": {"text", "masks"},
    "bert, labels": {"text", "label", "probabilities"},
    "bert, tags": {"words", "tags"},
    "bert, spans": {"answer", "start", "end", "score"},
}

BAD: list[tuple[str, str, dict[str, Any]]] = [
    ("bare", "gpt2", {}),
    ("bert", "bert", {}),
    ("t5", "t5", {"decoder_start_token_id": None}),
    ("one label", "bert, labels", {"id2label": {"0": "score"}}),
]
"""Checkpoints (place, family, fields) that cannot be imported as they are."""


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 with a byte-level tokenizer and some rows of its vocabulary to spare."""
    path = tmp_path_factory.mktemp("hub") / "gpt2"
    tensors = draw_tensors("gpt2")
    table = np.random.default_rng(1).normal(size=(288, 16)).astype(np.float32)
    write_hub(path, "gpt2", tensors | {"transformer.wte.weight": table}, vocab_size=288)
    tokenizer = train_subwords("byte-bpe", iter([TEXT]), 280)
    (path / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
    return path


def write_bert(path, name):
    write_hub(path, name)
    tokenizer = word_pieces("the", "cat", "sat", "?")
    (path / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")


def test_a_gpt_goes_in_is_tuned_and_comes_out(gpt2, tmp_path, capsys):
    run_dir = tmp_path / "run"
    status, out, err = call(capsys, "convert", "import", gpt2, run_dir)
    assert (status, err) == (0, "")
    assert f"{run_dir}: gpt2 of" in out
    assert f"try: jaxseq sample {run_dir}" in out
    assert "fresh" not in out
    imported, theirs = read_run(run_dir), read_checkpoint(gpt2)
    assert_same(imported.params, theirs.params)
    assert imported.experiment.model == theirs.config
    assert imported.experiment.data == NoData(str(gpt2))

    status, out, err = call(capsys, "evaluate", run_dir)
    assert status == 2
    assert f"imported from {gpt2} and has no data of its own" in err

    experiment = write_experiment(tmp_path)
    options = [
        "--num-steps",
        3,
        "--finetune.lora-rank",
        2,
        "--finetune.lora-alpha",
        32,
        "--no-show",
    ]
    tuned = ["--run-dir", tmp_path / "tuned", "--finetune.from-run", run_dir, *options]
    status, _, err = call(capsys, "train", experiment, *tuned)
    assert status == 0, err
    status, out, err = call(capsys, "convert", "export", tmp_path / "tuned", tmp_path / "out")
    assert (status, err) == (0, "")
    assert f"{tmp_path / 'out'}: step 3 of {tmp_path / 'tuned'}" in out
    back = flatten(read_checkpoint(tmp_path / "out").params)
    assert_same(back, flatten(merge(read_run(tmp_path / "tuned").params)))
    for path, leaf in flatten(theirs.params).items():
        adapted = path in ("blocks/attention/query/kernel", "blocks/attention/value/kernel")
        assert np.array_equal(back[path], leaf) != adapted, path
    tokenizer = load_subwords(tmp_path / "out")
    assert json.loads(tokenizer.definition) == json.loads(imported.tokenizer.definition)


def test_an_imported_gpt_writes_text(gpt2, tmp_path, capsys):
    assert call(capsys, "convert", "import", gpt2, tmp_path / "run")[0] == 0
    command = ["sample", tmp_path / "run", "--prompt", "the cat", "--max-new-tokens", 5]
    status, out, err = call(capsys, *command, "--top-k", 1)
    assert (status, err) == (0, "")
    assert out.startswith("the cat")


@pytest.mark.parametrize("name", LINES)
def test_a_bert_answers_by_its_head(name, tmp_path, capsys):
    write_bert(tmp_path / "hub", name)
    run_dir = tmp_path / "run"
    options = ["--pairs"] if name == "bert, labels" else []
    assert call(capsys, "convert", "import", tmp_path / "hub", run_dir, *options)[0] == 0
    line = LINES[name] + ("\tthe mat" if options else "")
    (tmp_path / "lines.txt").write_text(line + "\n", encoding="utf-8")
    status, out, err = call(capsys, "predict", run_dir, "--input", tmp_path / "lines.txt")
    assert (status, err) == (0, "")
    answer = json.loads(out)
    assert answer.keys() == ANSWERS[name]
    if name == "bert, labels":
        assert set(answer["probabilities"]) == {"bad", "good", "both"}
    if name == "bert, tags":
        assert set(answer["tags"]) <= {"LABEL_0", "LABEL_1"}
    assert call(capsys, "convert", "export", run_dir, tmp_path / "out")[0] == 0
    found, expected = (read_checkpoint(tmp_path / folder) for folder in ("out", "hub"))
    assert_same(found.params, expected.params)
    assert (found.config, found.head, found.labels) == (
        expected.config,
        expected.head,
        expected.labels,
    )


@pytest.mark.parametrize(("name", "before", "start"), [("t5", (), 0), ("bart", (3,), 36)])
def test_an_encoder_decoder_translates(name, before, start, tmp_path, capsys):
    """BART's sources begin with a token too, and the targets of each with one of its own."""
    tokenizer = train_subwords(
        "unigram", iter([TEXT]), 30, special_tokens=["<s>"] if before else []
    )
    end = tokenizer.special("end")
    library = tokenizer.library
    around = "<s> $A </s>" if before else "$A </s>"
    ids = [(token, library.token_to_id(token)) for token in around.split() if token != "$A"]
    library.post_processor = tokenizers.processors.TemplateProcessing(
        single=around, special_tokens=ids
    )
    write_hub(tmp_path / "hub", name, eos_token_id=end, decoder_start_token_id=start)
    (tmp_path / "hub" / "tokenizer.json").write_text(library.to_str(), encoding="utf-8")
    status, _, err = call(capsys, "convert", "import", tmp_path / "hub", tmp_path / "run")
    assert status == 0, err
    coder = read_run(tmp_path / "run").tokenizer
    assert (coder.start, coder.end) == (start, end)
    assert (coder.before_source, coder.behind_source) == (before, (end,))
    (tmp_path / "lines.txt").write_text("the cat\n", encoding="utf-8")
    status, out, err = call(capsys, "predict", tmp_path / "run", "--input", tmp_path / "lines.txt")
    assert (status, err) == (0, "")
    assert json.loads(out).keys() == {"input", "output", "score"}
    assert call(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")[0] == 0
    found, expected = (read_checkpoint(tmp_path / folder) for folder in ("out", "hub"))
    assert_same(found.params, expected.params)
    for field in ("eos_token_id", "decoder_start_token_id"):
        assert found.token_ids[field] == expected.token_ids[field]


def test_what_is_fresh_is_said(tmp_path, capsys):
    tensors = draw_tensors("bert")
    del tensors["cls.seq_relationship.weight"], tensors["cls.seq_relationship.bias"]
    write_bert(tmp_path / "hub", "bert")
    write_hub(tmp_path / "hub", "bert", tensors, architectures=["BertForMaskedLM"])
    status, out, _ = call(capsys, "convert", "import", tmp_path / "hub", tmp_path / "run")
    assert status == 0
    assert f"not in {tmp_path / 'hub'}, and fresh: next_sentence/bias, next_sentence/kernel" in out


def test_the_mesh_changes_nothing(gpt2, tmp_path, capsys):
    for name, options in (("one", ()), ("eight", ("--mesh.fsdp", 4, "--mesh.tensor", 2))):
        status, _, err = call(capsys, "convert", "import", gpt2, tmp_path / name, *options)
        assert status == 0, err
    assert_same(read_run(tmp_path / "eight").params, read_run(tmp_path / "one").params)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["import", "{gpt2}", "{run}", "--tokenizer", "{many}"], "has 300 tokens, and the mo"),
        (["import", "{gpt2}", "{run}", "--pairs"], "--pairs is for classifiers"),
        (["import", "{bare}", "{run}"], "vocab.txt; or name another with --tokenizer"),
        (["import", "{bert}", "{run}", "--tokenizer", "{gpt2}"], "has 280 tokens, and"),
        (
            ["import", "{bert}", "{run}", "--tokenizer", "{plain}"],
            "no special token for 'class",
        ),
        (["import", "{t5}", "{run}", "--tokenizer", "{plain}"], "one decoder_start_token_id"),
        (["import", "{one label}", "{run}", "--tokenizer", "{plain}"], "one label"),
        (["import", "{gpt2}", "{gpt2}"], "is there already"),
        (["import", "{gpt2}", "{left}"], "left.unfinished was left by a conversion"),
        (["import", "{gpt2}", "{run}", "--mesh.fsdp", "3", "--mesh.data", "1"], "8 devices"),
        (["import", "nowhere", "{run}"], "cannot read nowhere/config.json"),
        (["export", "{gpt2}", "{run}"], "{gpt2}"),
        (["export", "{gpt2}", "{run}", "--max-file-bytes", "0"], "--max-file-bytes is 0"),
        (["exprt"], "'import' and 'export', not 'exprt'"),
    ],
)
def test_mistakes_are_named_and_nothing_is_left(words, said, gpt2, tmp_path, capsys):
    places = {"gpt2": gpt2, "run": tmp_path / "run", "left": tmp_path / "left"}
    for name, family, fields in BAD:
        places[name] = tmp_path / name
        write_hub(places[name], family, **fields)
    for name, kind, size in (("many", "byte-bpe", 300), ("plain", "bpe", 24)):
        places[name] = tmp_path / name / "tokenizer.json"
        places[name].parent.mkdir()
        texts = iter([TEXT, " ".join(map(str, range(999)))]) if name == "many" else iter(["a b"])
        definition = train_subwords(kind, texts, size).definition
        places[name].write_text(definition, encoding="utf-8")
    (tmp_path / "left.unfinished").mkdir()
    before = sorted(tmp_path.iterdir())
    status, _, err = call(capsys, "convert", *(word.format(**places) for word in words))
    assert status == 2
    assert said.format(**places) in err
    assert sorted(tmp_path.iterdir()) == before


def test_an_interrupted_import_leaves_nothing(gpt2, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        assert (tmp_path / "run.unfinished").is_dir()
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxseq.training.run_directory.write_params_run", interrupted)
    assert call(capsys, "convert", "import", gpt2, tmp_path / "run")[0] == 130
    assert not list(tmp_path.iterdir())


def test_a_char_tokenizer_stays_behind(tmp_path, capsys):
    model = GPTConfig(num_layers=1, width=8, num_heads=2).resolve(vocab_size=9, context=8)
    task = LanguageModel()
    params = task.init(model, jax.random.key(0))
    params = jax.tree.map(lambda box: box.value, params, is_leaf=lambda x: hasattr(x, "names"))
    experiment = Experiment(task, model, TextData())
    write_params_run(tmp_path / "run", experiment, CharTokenizer.train("abcdefgh"), params)
    status, out, err = call(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")
    assert (status, err) == (0, "")
    assert "CharTokenizer stays behind" in out
    assert not (tmp_path / "out" / "tokenizer.json").exists()
    assert_same(read_checkpoint(tmp_path / "out").params, params)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] is None


def test_a_recurrent_network_is_not_exported(tmp_path, capsys):
    model = RNNLMConfig(width=8).resolve(vocab_size=9, context=8)
    task = LanguageModel()
    params = task.init(model, jax.random.key(0))
    params = jax.tree.map(lambda box: box.value, params, is_leaf=lambda x: hasattr(x, "names"))
    experiment = Experiment(task, model, TextData())
    write_params_run(tmp_path / "run", experiment, CharTokenizer.train("abcdefgh"), params)
    status, _, err = call(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")
    assert status == 2
    assert "holds a RNNLMConfig" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_transformers_reads_an_export_and_its_tokenizer(gpt2, tmp_path, capsys):
    torch = pytest.importorskip("torch", reason="the bench extra has PyTorch")
    transformers = pytest.importorskip("transformers", reason="the bench extra has it")
    assert call(capsys, "convert", "import", gpt2, tmp_path / "run")[0] == 0
    assert call(capsys, "convert", "export", tmp_path / "run", tmp_path / "out")[0] == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    run = read_run(tmp_path / "run")
    inputs = tokenizer("the cat slept", return_tensors="pt")
    ids = run.tokenizer.encode("the cat slept")
    np.testing.assert_array_equal(inputs["input_ids"][0], ids)
    assert tokenizer.eos_token == "<|endoftext|>"
    assert model.config.eos_token_id == run.tokenizer.special("end")
    with torch.no_grad():
        theirs = model(**inputs).logits.numpy()
    ours = run.experiment.model.build().apply({"params": run.params}, jnp.asarray(ids)[None])
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
