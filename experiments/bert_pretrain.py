"""BERT's pretraining: masked tokens, and whether one text really follows another.

Command:   jaxseq tokenizer runs/wordpiece --data.path TEXTS --kind wordpiece --lowercase
           jaxseq train experiments/bert_pretrain.py --data.path TEXTS \
               --data.tokenizer runs/wordpiece
Data:      TEXTS, a file or a directory or a pattern: documents of sentences. Without --data.path
           JAXSEQ_DATA/lm/tinyshakespeare.txt is read, with BERT's own vocabulary
Hardware:  a laptop CPU; BERT-base is --model.num-layers 12 --model.width 768 --model.num-heads 12
           --data.context 512 --data.batch-size 256
Time:      9.3 processor minutes on the 5 MB of text that scripts/measure_pretraining.py gathers
Expect:    there, without pairs and packed, 28.3 % of the masked tokens right (loss 4.555)
Then:      jaxseq train experiments/classify.py --finetune.from-run RUN_DIR
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.masked_text import MaskedText
from jaxseq.models.bert import BertConfig
from jaxseq.tasks.masked_lm import MaskedLM
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=MaskedLM(),
    model=BertConfig(
        num_layers=4, width=128, num_heads=4, dtype="bfloat16", dropout=0.0, unroll_layers=4
    ),
    data=MaskedText(
        path=Path("$JAXSEQ_DATA/lm/tinyshakespeare.txt"),
        tokenizer="$JAXSEQ_DATA/vocab/bert-base-uncased-vocab.txt",
        next_sentence=True,
        context=64,
        batch_size=32,
    ),
    # Norms behind the residual sums want small steps at first.
    optimizer=Optimizer(
        learning_rate=1e-3, warmup_steps=500, schedule="linear", final_fraction=0.0
    ),
    num_steps=6000,
    evaluate_every=1000,
    checkpoint_every=1000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
