"""GPT-2 small, 124 M parameters, pretrained on a large text.

Command:   jaxseq train experiments/gpt2_124m.py --data.path 'DIR/*.parquet'
           (OpenWebText, FineWeb, ...; gs://BUCKET/... and hf://ORG/NAME too)
           a rehearsal on a laptop: --model.num-layers 2 --model.width 64 --model.num-heads 2
           --data.context 64 --data.batch-size 4 --num-steps 5
Data:      text of any kind; tokens are made once and kept in a cache on disk. The vocabulary is
           GPT-2's: vocab.json, with merges.txt beside it; --data.tokenizer names it
Hardware:  8 GPUs or a TPU v5e-16; batches are divided over all devices, parameters and optimizer
           state too with --mesh.fsdp N
Time:      not measured: no accelerator was at hand
Expect:    not measured; nanoGPT's run of this size has validation loss 2.85 on OpenWebText
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
        vocab_size=50304,  # GPT-2's 50,257, filled up to a multiple of 128
        num_layers=12,
        width=768,
        num_heads=12,
        dtype="bfloat16",
        remat="dots",
    ),
    data=TextData(
        path=Path("$JAXSEQ_DATA/lm"),
        tokenizer="$JAXSEQ_DATA/vocab/gpt2-vocab.json",
        context=1024,
        batch_size=480,
    ),
    optimizer=Optimizer(
        learning_rate=6e-4, warmup_steps=2000, final_fraction=0.1, beta2=0.95, weight_decay=0.1
    ),
    num_steps=600_000,
    log_every=100,
    evaluate_every=2000,
    checkpoint_every=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
