"""Digits spoken: a Transformer that learns how long each letter lasts, or a recurrent network.

Command:   JAXSEQ_DATA=DIR jaxseq train experiments/synthesise_speech.py
           the recurrent one, which looks along the text: experiments/synthesise_speech.py:recurrent
           then: echo "theo: 3 1 4" | jaxseq predict RUN_DIR --output sounds
Data:      catalog:spoken-digits, the Free Spoken Digit Dataset; strings of one to three of its
           recordings of one speaker are put together as training goes. Without the catalog's files
           digits of a formant synthesiser, made up on the spot
Hardware:  a laptop CPU
Time:      6 processor minutes; the recurrent one 8
Expect:    1.8 % of the digits of the test split heard as others by a run of recognise_speech.py
           (6.0 % of the recordings, when their own spectrograms are made sound again), and
           mel-cepstral distortion of 3.2 dB (scripts/measure_synthesis.py); the recurrent one
           3.3 % and 3.2 dB; alignments and spectrograms in RUN_DIR/speech
"""

import dataclasses
import sys
from pathlib import Path

from jaxseq.cli import main
from jaxseq.data.catalog import is_here
from jaxseq.data.digit_strings import DigitStrings
from jaxseq.data.made_up_speech import MadeUpDigits
from jaxseq.models.attention_tts import AttentionTTSConfig
from jaxseq.models.duration_tts import DurationTTSConfig
from jaxseq.ops.spectral import FrontEnd
from jaxseq.tasks.synthesise import Synthesise
from jaxseq.training.experiment import Experiment
from jaxseq.training.optimizers import Optimizer

# Letters, because a word sounds different from its beginning to its end; no noise, no changed
# voices and short pauses, because all that is heard is learned.
data = dataclasses.replace(
    DigitStrings(path=Path("catalog:spoken-digits/all"))
    if is_here("spoken-digits")
    else MadeUpDigits(),
    batch_size=32,
    unit="character",
    max_digits=3,
    max_pause=0.1,
    noise=False,
    speed=0.0,
    channel=0.0,
)
front_end = FrontEnd(window=400, hop=100, fft_size=512, floor=1e-4)

experiment = Experiment(
    task=Synthesise(),
    model=DurationTTSConfig(front_end=front_end, width=96, mlp_hidden=256, decoder_layers=2),
    data=data,
    optimizer=Optimizer(learning_rate=2e-3, schedule="linear", final_fraction=0.0),
    num_steps=1200,
    evaluate_every=600,
    evaluation_batches=1,
    checkpoint_every=600,
)

recurrent = dataclasses.replace(
    experiment, model=AttentionTTSConfig(front_end=front_end, frames_per_step=3), num_steps=2400
)

if __name__ == "__main__":
    sys.exit(main(["train", __file__, *sys.argv[1:]]))
