"""A character GPT on tiny Shakespeare, within the budget of nanoGPT's laptop configuration.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/gpt_shakespeare.py
Data:      DIR/lm/tinyshakespeare.txt, 1,115,394 characters: data/tinyshakespeare/input.txt of
           github.com/karpathy/char-rnn; --data.path FILE names it where it lies elsewhere
Hardware:  a laptop CPU
Time:      2.5 minutes on two cores
Expect:    validation loss 1.55: 1.5522, 1.5605 and 1.5468 with seeds 0, 1 and 2, mean 1.5532
           (scripts/measure_shakespeare.py); nanoGPT 1.898, after as many tokens (2000 x 12 x 64)
           with as many parameters (0.80 M), over the same last tenth of the text
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(),
    model=GPTConfig(
        num_layers=4,
        num_heads=4,
        width=128,
        # SwiGLU has three matrices where GELU has two: 344 is 2/3 of 4 x 128, in eights.
        activation="swiglu",
        mlp_hidden=344,
        norm="rms",
        positions="rotary",
        qk_norm=True,
        use_bias=False,
        unroll_layers=4,
    ),
    data=TextData(path=Path("$JAXSEQ_DATA/lm/tinyshakespeare.txt"), context=64, batch_size=12),
    # So few steps want large ones and an end at rate 0. AdamW at 5e-3 in Muon's place: 1.66.
    optimizer=Optimizer(
        name="muon",
        learning_rate=1e-2,
        adam_learning_rate=5e-3,
        warmup_steps=100,
        schedule="linear",
        final_fraction=0.0,
    ),
    num_steps=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
