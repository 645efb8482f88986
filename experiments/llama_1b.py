"""A Llama of 1.2 thousand million parameters, the shapes of Llama 3.2 1B, on a pod.

Command:   jaxseq train experiments/llama_1b.py --data.path 'gs://BUCKET/text/*.parquet' \
               --data.tokenizer DIR
           jaxseq plan experiments/llama_1b.py --topology v5e:16x16   # needs no TPU and no data
           a rehearsal on a laptop: --model.num-layers 2 --model.width 64 --model.num-heads 4
           --model.num-kv-heads 2 --model.head-size 16 --model.mlp-hidden 128 --data.context 64
           --data.batch-size 4 --mesh.data -1 --mesh.fsdp 1 --num-steps 5
Data:      text of any kind; tokens are made once and kept in a cache on disk. DIR holds a
           tokenizer.json of at most 128,256 tokens
Hardware:  a TPU v5e-256 or 64 GPUs: parameters and optimizer state are divided over 16 devices
           each, and the batch over all
Time:      not measured: no accelerator was at hand. `jaxseq plan` expects 389 ms a step at
           best on the v5e-256 (2.7 M tokens/s, MFU 48 %), and 10.3 of 15.75 GiB a chip
Expect:    not measured
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.corpus import TextData
from jaxseq.models.gpt import GPTConfig
from jaxseq.ops.positions import Rotary
from jaxseq.parallel.mesh import MeshConfig
from jaxseq.tasks.language_model import LanguageModel
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=LanguageModel(loss_chunk=512),
    model=GPTConfig(
        vocab_size=128_256,
        num_layers=16,
        width=2048,
        num_heads=32,
        num_kv_heads=8,
        head_size=64,
        mlp_hidden=8192,
        positions="rotary",
        rotary=Rotary(base=500_000.0),
        norm="rms",
        activation="swiglu",
        use_bias=False,
        dtype="bfloat16",
        remat="dots",
    ),
    data=TextData(
        path=Path("$JAXSEQ_DATA/lm"),
        tokenizer="$JAXSEQ_DATA/vocab/gpt2-vocab.json",
        context=4096,
        batch_size=256,
        separate_documents=True,
    ),
    mesh=MeshConfig(data=-1, fsdp=16),
    optimizer=Optimizer(
        learning_rate=3e-4, warmup_steps=2000, final_fraction=0.1, beta2=0.95, weight_decay=0.1
    ),
    num_steps=100_000,
    log_every=100,
    evaluate_every=2000,
    checkpoint_every=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
