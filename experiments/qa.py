"""Answers that stand in a text: extractive question answering on SQuAD.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/qa.py
           experiments/qa.py:recurrent is a bidirectional LSTM
           from our own pretraining: --finetune.from-run RUN_DIR of bert_pretrain.py, trained with
           --model.num-types 3 (scripts/measure_qa.py)
           from a checkpoint of the hub: jaxseq convert import HF_DIR RUN_DIR, and the same, with
           --data.no-matches --model.num-types 2
Data:      catalog:squad-slices, 5,520 questions to train on and 957 of four other articles of
           SQuAD 1.1; --data.train catalog:squad/train and so on for all of it, or of SQuAD 2.0
           (catalog:squad-2/train), or any file in its format. Without the catalog's files: towns
           that are made up
Hardware:  a laptop CPU for the slices; one GPU or TPU for BERT-base on all of SQuAD, with
           --optimizer.learning-rate 5e-5 --data.max-length 384
Time:      7 processor minutes; recurrent 3
Expect:    of 957 questions exact match 4.6 % and F1 10.0 %, recurrent 21.5 and 36.0, from 7 minutes
           of our own pretraining 9.5 and 19.9; a sliding window (Richardson et al. 2013) reaches
           11.9 and 24.4 (scripts/measure_qa.py). So little text teaches a Transformer few answers,
           and an LSTM some
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.made_up_questions import MadeUpQuestions
from jaxseq.data.squad import SquadData
from jaxseq.models.bert import BertConfig
from jaxseq.models.rnn_encoder import RNNEncoderConfig
from jaxseq.tasks.extractive_qa import ExtractiveQA
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=ExtractiveQA(longest_answer=15),
    model=BertConfig(num_layers=4, width=128, num_heads=4, num_types=3, unroll_layers=4),
    data=SquadData(
        train=Path("$JAXSEQ_DATA/qa/squad11.train*.json"),
        validation=Path("catalog:squad-slices/validation"),
        max_length=192,
        max_question=32,
        stride=96,
        matches=True,
    )
    if is_here("squad-slices")
    else MadeUpQuestions(max_length=96, max_question=16, stride=32, matches=True),
    optimizer=Optimizer(learning_rate=5e-4, schedule="linear", final_fraction=0.0),
    num_steps=1200,
    evaluate_every=300,
    checkpoint_every=300,
)

recurrent = dataclasses.replace(
    experiment,
    model=RNNEncoderConfig(num_layers=2, width=256, embedding_width=128, num_types=3, dropout=0.3),
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=2e-3),
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
