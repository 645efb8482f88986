"""English to French: a Transformer, or a recurrent encoder-decoder with attention or without.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/translate.py
           translate.py:attention is an LSTM with additive attention, translate.py:plain has none
           then: jaxseq evaluate RUN_DIR --split test
Data:      catalog:eng-fra, 46,000 pairs of short sentences from Tatoeba; --data.train FILE and so
           on name other files of ENGLISH TAB FRENCH lines, or hf://wmt/wmt14/fr-en with
           --data.columns translation.en translation.fr. Without the catalog's files: numbers in
           words, made up
Hardware:  a laptop CPU
Time:      51 processor minutes; with attention 47, plain 50
Expect:    43.0 BLEU and 60.6 chrF on the test sentences, against all references of each; with
           attention 40.4 and 57.5, plain 23.9 and 39.9; the model of PyTorch's tutorial has 22.7
           and 43.5 after 50 minutes (scripts/measure_translation.py); a picture of the attention
           in the run directory
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.made_up_translations import MadeUpTranslations
from jaxseq.data.pairs import PairData
from jaxseq.models.encoder_decoder import EncoderDecoderConfig
from jaxseq.models.rnn_seq2seq import RNNSeq2SeqConfig
from jaxseq.tasks.transduce import Transduce
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=Transduce(label_smoothing=0.1, length_penalty=0.6),
    model=EncoderDecoderConfig(
        encoder_layers=3,
        decoder_layers=2,
        width=256,
        num_heads=4,
        norm_position="pre",
        share_embeddings=is_here("eng-fra"),  # what is made up has a vocabulary a language
        dropout=0.2,
        dtype="bfloat16",
        unroll_layers=3,
    ),
    data=PairData(
        train=Path("catalog:eng-fra/train"),
        validation=Path("catalog:eng-fra/validation"),
        test=Path("catalog:eng-fra/test"),
        subwords=4000,
        references=True,
        batch_size=128,
    )
    if is_here("eng-fra")
    else MadeUpTranslations(batch_size=128),
    optimizer=Optimizer(
        learning_rate=1.5e-3, warmup_steps=300, schedule="linear", final_fraction=0.0
    ),
    num_steps=6500,
    evaluate_every=1000,
    evaluation_batches=4,
    checkpoint_every=500,
)

attention = dataclasses.replace(
    experiment,
    model=RNNSeq2SeqConfig(width=320, embedding_width=256, attention="additive", dropout=0.3),
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=2e-3),
)

plain = dataclasses.replace(
    attention,
    model=dataclasses.replace(attention.model, attention="none"),
    num_steps=7500,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
