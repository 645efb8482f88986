"""English spelling to phonemes: an LSTM encoder-decoder with attention on CMUdict.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/g2p.py
           then: jaxseq evaluate RUN_DIR --split test
Data:      DIR/g2p/cmudict.{train,dev,test}.tsv, word TAB phones with stress marks, from the CMU
           Pronouncing Dictionary; --data.train FILE and so on name other files of that form
Hardware:  a laptop CPU
Time:      12 processor minutes, of which two cores make about 7
Expect:    on the test words, without stress marks 8.0 % phoneme errors and 67 % of words right;
           with them 10.2 % and 62 % (scripts/measure_g2p.py)
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.pairs import PairData
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.tasks.transduce import Transduce
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    # Without its digits a phoneme is without its stress: the error rate that the field quotes too.
    task=Transduce(second_score_ignores="012"),
    model=RNNSeq2SeqConfig(
        width=256, embedding_width=64, attention="general", input_feeding=False, dropout=0.2
    ),
    data=PairData(
        train=Path("$JAXSEQ_DATA/g2p/cmudict.train.tsv"),
        validation=Path("$JAXSEQ_DATA/g2p/cmudict.dev.tsv"),
        test=Path("$JAXSEQ_DATA/g2p/cmudict.test.tsv"),
        batch_size=128,
    ),
    optimizer=Optimizer(learning_rate=3e-3, schedule="linear", final_fraction=0.0),
    num_steps=8000,
    evaluate_every=1000,
    evaluation_batches=4,
    checkpoint_every=1000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
