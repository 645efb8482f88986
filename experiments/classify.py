"""Texts with a label: a Transformer that reads both ways, from scratch or from a pretrained one.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/classify.py
           from our own pretraining: --finetune.from-run RUN_DIR of bert_pretrain.py
           from a checkpoint of the hub: jaxseq convert import HF_DIR RUN_DIR, and the same
Data:      DIR/sentiment/rt_polarity.{train,dev,test}.tsv, LABEL TAB SENTENCE: 10,662 sentences of
           film reviews (Pang and Lee 2005); --data.train FILE and so on name other files
Hardware:  a laptop CPU
Time:      3.2 processor minutes
Expect:    75.6 % of the test sentences right from scratch (75.58 +- 0.14 over three seeds, with a
           vocabulary of 8,000), 75.3 % from a BERT pretrained on 5 MB of text (75.30 +- 0.95): so
           little text does not help. A logistic regression on bags of words has 76.5 %
           (scripts/measure_pretraining.py)
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.labelled import LabelledText
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.classify import Classify
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=Classify(),
    model=BertConfig(num_layers=4, width=128, num_heads=4, dropout=0.2, unroll_layers=4),
    data=LabelledText(
        train=Path("$JAXSEQ_DATA/sentiment/rt_polarity.train.tsv"),
        validation=Path("$JAXSEQ_DATA/sentiment/rt_polarity.dev.tsv"),
        test=Path("$JAXSEQ_DATA/sentiment/rt_polarity.test.tsv"),
        tokenizer="$JAXSEQ_DATA/vocab/bert-base-uncased-vocab.txt",
    ),
    optimizer=Optimizer(learning_rate=5e-4, schedule="linear", final_fraction=0.0),
    num_steps=1300,
    evaluate_every=260,
    checkpoint_every=260,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
