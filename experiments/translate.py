"""English to French."""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
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
        share_embeddings=True,
        dropout=0.2,
        dtype="bfloat16",
        unroll_layers=3,
    ),
    data=PairData(
        train=Path("$JAXSEQ_DATA/translation/eng-fra.train.tsv"),
        validation=Path("$JAXSEQ_DATA/translation/eng-fra.dev.tsv"),
        test=Path("$JAXSEQ_DATA/translation/eng-fra.test.tsv"),
        subwords=4000,
        references=True,
        batch_size=128,
    ),
    optimizer=Optimizer(
        learning_rate=1.5e-3, warmup_steps=300, schedule="linear", final_fraction=0.0
    ),
    num_steps=3500,
    evaluate_every=1000,
    evaluation_batches=4,
    checkpoint_every=500,
)

attention = dataclasses.replace(
    experiment,
    model=RNNSeq2SeqConfig(width=320, embedding_width=256, attention="additive", dropout=0.3),
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=2e-3),
)

plain = dataclasses.replace(attention, model=dataclasses.replace(attention.model, attention="none"))

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
