"""Universal part-of-speech tags for English: a BiLSTM-CNN-CRF on UD English EWT.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/tag_upos.py
           the ladder below it: --model.output softmax; --model.encoder features; and
           --model.encoder words --model.output hmm
Data:      DIR/tagging/en_ewt.{train,dev,test}.tsv, FORM TAB UPOS from Universal Dependencies'
           English EWT; --data.train FILE and so on name other files of that form
Hardware:  a laptop CPU
Time:      5.5 processor minutes
Expect:    95.09 % of the test words right, mean of three seeds (95.04, 95.16, 95.06); without the
           CRF 94.98, the CRF on features 94.64, the HMM 90.00, and each word's most frequent tag
           86.20 (scripts/measure_tagging.py)
"""

import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.tagged import TaggedData
from jaxseq.models.tagger import TaggerConfig
from jaxseq.tasks.tag import Tag
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=Tag(),
    # The hard words are those that training has once or never: read them by their letters.
    model=TaggerConfig(character_width=100, word_dropout=0.25),
    data=TaggedData(
        train=Path("$JAXSEQ_DATA/tagging/en_ewt.train.tsv"),
        validation=Path("$JAXSEQ_DATA/tagging/en_ewt.dev.tsv"),
        test=Path("$JAXSEQ_DATA/tagging/en_ewt.test.tsv"),
    ),
    optimizer=Optimizer(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
    num_steps=4000,
    evaluate_every=400,
    checkpoint_every=1000,
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
