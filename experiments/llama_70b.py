"""A Llama of 70.6 thousand million parameters, the shapes of Llama 3 70B, on 512 chips.

Command:   jaxseq plan experiments/llama_70b.py --topology v5p:8x8x8 [--search]
           needs no TPU and no data; then, on the pod:
           jaxseq train experiments/llama_70b.py --data.path 'gs://BUCKET/text/*.parquet' \\
               --data.tokenizer DIR
           a rehearsal on a laptop: --model.num-layers 2 --model.width 64 --model.num-heads 4
           --model.num-kv-heads 2 --model.head-size 16 --model.mlp-hidden 128 --data.context 64
           --data.batch-size 4 --mesh.data -1 --mesh.fsdp 1 --num-steps 5
Data:      text of any kind; tokens are made once and kept in a cache on disk. DIR holds a
           tokenizer.json of at most 128,256 tokens
Hardware:  a TPU v5p slice of 8 x 8 x 8 chips: 4 copies, each divided over 128 of them, which is the
           best mesh that the plan's search finds
Time:      not measured: no accelerator was at hand; the plan says 6.7 s a step at best, 59 % MFU
Expect:    not measured; the plan says 38 of a chip's 96 GiB
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
        num_layers=80,
        width=8192,
        num_heads=64,
        num_kv_heads=8,
        head_size=128,
        mlp_hidden=28_672,
        positions="rotary",
        rotary=Rotary(base=500_000.0),
        norm="rms",
        activation="swiglu",
        use_bias=False,
        tie_embeddings=False,
        dtype="bfloat16",
        remat="full",
    ),
    data=TextData(
        path=Path("$JAXSEQ_DATA/lm"),
        tokenizer="$JAXSEQ_DATA/vocab/gpt2-vocab.json",
        context=4096,
        batch_size=512,
        separate_documents=True,
    ),
    mesh=MeshConfig(data=4, fsdp=-1),
    optimizer=Optimizer(
        learning_rate=1.5e-4, warmup_steps=2000, final_fraction=0.1, beta2=0.95, weight_decay=0.1
    ),
    num_steps=100_000,
    log_every=100,
    evaluate_every=2000,
    checkpoint_every=2000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
