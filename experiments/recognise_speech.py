"""Strings of spoken digits, recognised by a BiLSTM or a Conformer with CTC.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/recognise_speech.py
           the Conformer: jaxseq train experiments/recognise_speech.py:transformer
           an LSTM that hears a third of a second at a time, and nothing later: ...:streaming
           somebody never heard: --data.held-out-speaker theo
Data:      catalog:spoken-digits, the Free Spoken Digit Dataset; strings of its recordings, with
           pauses and noise of 20 to 50 dB less power, are put together as training goes. Without
           the catalog's files digits of a formant synthesiser, made up on the spot. Other speech:
           a file with data=SpeechFiles(...)
Hardware:  a laptop CPU
Time:      5 processor minutes; :transformer, a Conformer, 15; :streaming 6
Expect:    words wrong on the official test split, whose speakers were heard, and of somebody never
           heard (the mean of four, each held out once; scripts/measure_speech.py):
               BiLSTM      2.8 %   21.3 % (12.8 to 33.5)
               Conformer   0.7 %   14.6 % (7.3 to 21.2)
               streaming   6.2 %
           --data.rooms 1 brings the worst of the BiLSTM's, lucas, from 35.9 to 12.9 % in 1,500
           steps, and its official split to 12.5 % in 3,000; 0.5 brings lucas to 19.0, george to
           26.7, jackson to 19.4 and the official split to 4.7; of the Conformer, lucas from 17.8 to
           18.8
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.digit_strings import DigitStrings
from jaxseq.data.made_up_speech import MadeUpDigits
from jaxseq.models.speech_recognizer import SpeechRecognizerConfig
from jaxseq.nn.speech_features import SpecAugment
from jaxseq.tasks.recognise import Recognise
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

experiment = Experiment(
    task=Recognise(),
    # Few speakers: what tells them apart must not be learnt. Bands of the spectrum are hidden,
    # voices made larger, smaller and faster, and made-up ones put beside them.
    model=SpeechRecognizerConfig(
        width=128, num_layers=2, dropout=0.1, spec_augment=SpecAugment(mel_masks=1)
    ),
    data=(
        DigitStrings(
            path=Path("catalog:spoken-digits/all"),
            made_up_voices=24,
            speed=0.2,
            tempo=0.2,
            growth=150,
        )
        if is_here("spoken-digits")
        else MadeUpDigits(growth=150)
    ),
    optimizer=Optimizer(learning_rate=4e-3, warmup_steps=30, final_fraction=0.0),
    num_steps=3000,
    evaluate_every=1000,
    evaluation_batches=4,
    checkpoint_every=500,
)

transformer = dataclasses.replace(
    experiment,
    model=dataclasses.replace(experiment.model, encoder="conformer", width=96, num_layers=3),
    optimizer=dataclasses.replace(experiment.optimizer, learning_rate=2e-3, warmup_steps=100),
)

streaming = dataclasses.replace(
    experiment,
    model=dataclasses.replace(experiment.model, encoder="lstm", chunk=8, normalise="running"),
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
