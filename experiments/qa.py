"""Answers that stand in a text: extractive question answering on SQuAD.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/qa.py
           from our own pretraining: --finetune.from-run RUN_DIR of bert_pretrain.py
           from a checkpoint of the hub: jaxseq convert import HF_DIR RUN_DIR, and the same
Data:      DIR/qa/squad11.train-slice.json (2,442 questions of SQuAD 1.1's training set) and
           squad11.dev.json (957 of its development set), in SQuAD's own format; --data.train FILE
           and so on name the whole ones
Hardware:  a laptop CPU for the slice; one GPU or TPU for BERT-base on all of SQuAD, with
           --optimizer.learning-rate 5e-5 --data.max-length 384
Time:      not measured
Expect:    not measured; the best models of SQuAD need pretraining on far more text than is here
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.squad import SquadData
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.extractive_qa import ExtractiveQA
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=ExtractiveQA(),
    model=BertConfig(num_layers=4, width=128, num_heads=4, unroll_layers=4),
    data=SquadData(
        train=Path("$JAXSEQ_DATA/qa/squad11.train-slice.json"),
        validation=Path("$JAXSEQ_DATA/qa/squad11.dev.json"),
        tokenizer="$JAXSEQ_DATA/vocab/bert-base-uncased-vocab.txt",
        max_length=192,
        stride=96,
    ),
    optimizer=Optimizer(learning_rate=5e-4, schedule="linear", final_fraction=0.0),
    num_steps=800,
    evaluate_every=200,
    checkpoint_every=200,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
