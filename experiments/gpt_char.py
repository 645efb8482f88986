"""A character GPT that learns to write Python from the standard library's own source.

Command:   jaxseq train experiments/gpt_char.py
Hardware:  a laptop CPU; no network, no download
Time:      TIME
Expect:    LOSS
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
    optimizer=Optimizer(learning_rate=1e-3, warmup_steps=100),
    num_steps=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
