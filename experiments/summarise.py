"""Summaries of scientific abstracts (SciTLDR), by a Transformer that may copy words of the text.

Command:   jaxseq train experiments/summarise.py
           jaxseq train experiments/summarise.py:recurrent (LSTMs with attention)
           then: jaxseq evaluate RUN_DIR --split test
Data:      catalog:scitldr, where dev is the test split, because there is no other, and every tenth
           text of train is held out for validation; --data.train FILE and so on name other files,
           or hf://abisee/cnn_dailymail/3.0.0 with --data.columns article highlights. Without the
           catalog's files: reports made up on the spot
Hardware:  a laptop CPU
Time:      5 processor minutes on SciTLDR; recurrent about 3
Expect:    ROUGE-1/2/L on the dev split of 31.7/12.5/26.6, and recurrent 34.6/15.4/28.9. The best of
           the first one to three sentences has 27.7/11.0/21.7, the best sentence of each text
           43.7/25.4/37.0: both models beat the lead in all three (scripts/measure_summaries.py)
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.made_up_summaries import MadeUpSummaries
from jaxseq.data.summaries import SummaryData
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.tasks.summarise import Summarise
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

# Eleven hundred summaries teach few words: what is not among 2,000 is copied.
SCITLDR = SummaryData(
    train=Path("catalog:scitldr/train"),
    test=Path("catalog:scitldr/validation"),
    vocab_size=2000,
    extracts=True,
    max_source=256,
    max_target=60,
)

experiment = Experiment(
    task=Summarise(),
    model=EncoderDecoderConfig(
        width=128,
        num_heads=4,
        norm_position="pre",
        positions="relative",  # to copy a phrase is to look one word on from the last look
        share_embeddings=True,
        copy=True,
        dropout=0.2,
        dtype="bfloat16",
        unroll_layers=2,
    ),
    data=SCITLDR if is_here("scitldr") else MadeUpSummaries(),
    optimizer=Optimizer(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
    num_steps=1200,
    evaluate_every=400,
    evaluation_batches=2,
    checkpoint_every=200,
)

recurrent = dataclasses.replace(
    experiment,
    model=RNNSeq2SeqConfig(
        width=128, attention="general", copy=True, dropout=0.2, dtype="bfloat16"
    ),
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=3e-3),
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
