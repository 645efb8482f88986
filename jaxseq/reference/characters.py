"""Twins of `nn.characters`: parameters as Flax names them, characters (words, W)."""

import numpy as np

from jaxseq.reference.recurrent import lstm


def character_cnn(params: dict, characters: np.ndarray) -> np.ndarray:
    """y_f = max over t of b_f + sum over o in {-1, 0, 1} of K_fo . E[characters[t + o]]."""
    table, filters = params["embedding"]["table"], params["filters"]
    y = np.zeros((len(characters), filters["bias"].size))
    for n, word in enumerate(characters):
        length = int((word > 0).sum())
        spelt = [0, *word[:length], 0]
        for f in range(filters["bias"].size):
            answers = []
            for t in range(length):
                around = np.concatenate([table[spelt[t + o]] for o in range(3)])
                answers.append(filters["bias"][f] + around @ filters["kernel"][:, f])
            y[n, f] = max(answers, default=0.0)
    return y


def character_lstm(params: dict, characters: np.ndarray) -> np.ndarray:
    """[last state of an LSTM read forwards, last state of one read backwards]."""
    table, cells = params["embedding"]["table"], params["lstm"]
    words = []
    for word in characters:
        x = table[word[word > 0]]
        halves = []
        for name, steps in (("layer_0", x), ("layer_0_reverse", x[::-1])):
            cell = cells[name]
            y = lstm(steps[None], cell["kernel"], cell["recurrent_kernel"], cell["bias"])[0]
            halves.append(y[0, -1] if len(steps) else np.zeros(cell["recurrent_kernel"].shape[0]))
        words.append(np.concatenate(halves))
    return np.array(words)
