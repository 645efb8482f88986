"""Dates as people write them to ISO 8601: an LSTM encoder-decoder with additive attention.

Command:   jaxseq train experiments/dates_seq2seq.py
Data:      made up on the spot, 10,000 dates to train on and 1,000 to look at on the way
Hardware:  a laptop CPU
Time:      2.5 processor minutes
Expect:    every held-out date right ("exact 1"), and attention.png in the run directory, which
           shows the year, month and day looked up where they stand
"""

import sys

from jaxseq.cli import main
from jaxseq.data.dates import DatesData
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.tasks.transduce import Transduce
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=Transduce(),
    model=RNNSeq2SeqConfig(width=96, embedding_width=32, attention="additive"),
    data=DatesData(batch_size=64),
    optimizer=Optimizer(learning_rate=5e-3, schedule="linear", final_fraction=0.0),
    num_steps=800,
    evaluate_every=200,
    evaluation_batches=4,
    checkpoint_every=400,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
