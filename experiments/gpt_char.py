"""A character GPT that learns to write Python from the standard library's own source.

Command:   jaxseq train experiments/gpt_char.py
Hardware:  a laptop CPU; no network, no download
Time:      1.5 minutes on two cores
Expect:    validation loss 1.57, 2.27 bits per byte, on the library of Python 3.11.7 (1.68 with
           nanoGPT's own AdamW at 1e-3); other Python versions ship other text
"""

import sys

from jaxseq.cli import main
from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(),
    # nanoGPT's laptop configuration
    model=GPTConfig(num_layers=4, num_heads=4, width=128, use_bias=False, unroll_layers=4),
    data=TextData(context=64, batch_size=12),
    # So few steps want large ones, and an end at rate 0.
    optimizer=Optimizer(learning_rate=5e-3, schedule="linear", final_fraction=0.0),
    num_steps=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
