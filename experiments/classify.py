"""Texts with a label: film reviews that are good or bad, and the languages of names.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/classify.py
           classify.py:recurrent is a bidirectional LSTM; classify.py:names and
           classify.py:names_recurrent read names, letter by letter
           from our own pretraining: --finetune.from-run RUN_DIR of bert_pretrain.py
           from a checkpoint of the hub: jaxseq convert import HF_DIR RUN_DIR, and the same
           then: jaxseq evaluate RUN_DIR --split test
Data:      catalog:rt-polarity, 10,662 sentences of film reviews (Pang and Lee 2005), LABEL TAB
           SENTENCE; catalog:names-by-language, 20,050 names, NAME TAB LANGUAGE, of which two tenths
           are held out by a hash, so that no name is in two splits; --data.train FILE and so on
           name other files, or hf://stanfordnlp/sst2. Without the catalog's files: made-up ones
Hardware:  a laptop CPU
Time:      1 processor minute; names 1.5
Expect:    77.6 +- 0.9 % of the test sentences right (3 seeds; the LSTM 76.3 +- 0.6, a logistic
           regression on bags of words 76.5); of the names 70.8 % (macro F1 30.0 %), the LSTM 75.4
           (45.4), a regression on bags of 1 to 4 letters 77.3 (49.7):
           scripts/measure_classification.py
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.labelled import LabelledText
from jaxseq.data.made_up_names import MadeUpNames
from jaxseq.data.made_up_reviews import MadeUpReviews
from jaxseq.models.bert import BertConfig
from jaxseq.models.rnn_encoder import RNNEncoderConfig
from jaxseq.tasks.classify import Classify
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    # So few sentences want a small model, and words that cannot be relied on; of those made up
    # every one counts.
    task=Classify(hidden_words=0.3 if is_here("rt-polarity") else 0.0),
    model=BertConfig(num_layers=1, width=64, num_heads=4, dropout=0.4),
    data=LabelledText(
        train=Path("catalog:rt-polarity/train"),
        validation=Path("catalog:rt-polarity/validation"),
        test=Path("catalog:rt-polarity/test"),
        tokenizer="wordpiece",
        vocab_size=16_000,
    )
    if is_here("rt-polarity")
    else MadeUpReviews(tokenizer="wordpiece", vocab_size=500),
    optimizer=Optimizer(
        learning_rate=1.5e-3, schedule="linear", final_fraction=0.0, ema_decay=0.99
    ),
    num_steps=1335,
    evaluate_every=267,
    checkpoint_every=267,
)

recurrent = dataclasses.replace(
    experiment,
    task=Classify(),
    model=RNNEncoderConfig(width=128, embedding_width=64, dropout=0.5),
    # Embeddings as large as recurrent cells want them move too little at a smaller rate.
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=1e-2),
    num_steps=1600,
)

names = dataclasses.replace(
    experiment,
    task=Classify(),
    model=BertConfig(num_layers=2, width=128, num_heads=4, dropout=0.2, unroll_layers=2),
    data=LabelledText(
        train=Path("catalog:names-by-language/all"),
        columns=("name", "language"),
        label="language",
        tokenizer="char",
        batch_size=64,
    )
    if is_here("names-by-language")
    else MadeUpNames(tokenizer="char", batch_size=64),
    num_steps=3000,
    evaluate_every=750,
    checkpoint_every=750,
)

names_recurrent = dataclasses.replace(
    names,
    model=RNNEncoderConfig(width=256, embedding_width=64, dropout=0.5),
    optimizer=dataclasses.replace(names.optimizer, learning_rate=5e-3),
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
