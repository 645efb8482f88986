"""A language model goes on with another text: all of it, or low-rank adapters alone.

Command:   jaxseq train experiments/gpt_char.py --run-dir runs/python
           JAXSEQ_DATA=DIR jaxseq train experiments/gpt_finetune.py --finetune.from-run runs/python
           adapters: --finetune.lora-rank 8 --finetune.lora-targets '*'
           a checkpoint of the hub: jaxseq convert import HF_DIR RUN_DIR, and --finetune.from-run
Data:      DIR/lm/tinyshakespeare.txt; --data.path TEXTS names others. The tokenizer and the
           architecture are those of the run that it starts from
Hardware:  a laptop CPU
Time:      40 seconds on two cores, behind the 1.5 minutes of gpt_char.py
Expect:    validation loss 1.91 (2.75 bits per byte) with all parameters, seed 0
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.finetune import FineTune
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(),
    model=GPTConfig(unroll_layers=4),
    data=TextData(path=Path("$JAXSEQ_DATA/lm/tinyshakespeare.txt"), context=64, batch_size=12),
    finetune=FineTune(from_run=Path("runs/python")),
    optimizer=Optimizer(learning_rate=1e-3, schedule="linear", final_fraction=0.0),
    num_steps=500,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
