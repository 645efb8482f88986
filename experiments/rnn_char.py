"""A character RNN on the source of Python's standard library; every cell by one option.

Command:   jaxseq train experiments/rnn_char.py --model.cell mingru
           (elman, lstm, gru, mingru, minlstm, lru, rglru or matrix)
Hardware:  a laptop CPU
Time:      1.3 processor minutes
Expect:    validation loss 1.37 with an LSTM on Python 3.11's library (gpt_char.py's GPT: 1.57);
           on tiny Shakespeare (--data.path) 1.561, a GRU 1.583 (scripts/measure_shakespeare.py)
"""

import sys

from jaxseq.cli import main
from jaxseq.data.corpus import TextData
from jaxseq.models.rnn_lm import RNNLMConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(),
    model=RNNLMConfig(cell="lstm", num_layers=2, width=192, residual=True, layer_norm=True),
    data=TextData(context=64, batch_size=12),
    optimizer=Optimizer(learning_rate=5e-3, schedule="linear", final_fraction=0.0),
    num_steps=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
