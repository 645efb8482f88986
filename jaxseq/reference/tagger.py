"""Twin of the baselines in `models.tagger`; its recurrent encoder is made of twins of their own."""

import numpy as np

from jaxseq.reference.chain import log_sum_exp


def feature_scores(params: dict, features: np.ndarray) -> np.ndarray:
    """Emissions (T, C) of a sentence: features (T, F) of each word and of both its neighbours."""
    length = len(features)
    emissions = np.zeros((length, len(params["bias"])))
    for t in range(length):
        emissions[t] += params["bias"]
        for offset, name in ((-1, "before"), (0, "here"), (1, "behind")):
            if 0 <= t + offset < length:
                for feature in features[t + offset]:
                    if feature > 0:
                        emissions[t] += params[name]["table"][feature]
    return emissions


def hidden_markov_model(params: dict, words: np.ndarray, tags: np.ndarray) -> float:
    """log p(words, tags), the end of the sentence included, of a sentence with one word at least.

    p = p(tag_1) prod_t p(word_t | tag_t) prod_t p(tag_{t+1} | tag_t)   with tag_{T+1} the end
    """
    log_probability = _log_softmax(params["initial"])[tags[0]]
    outcomes = [*tags[1:], len(params["initial"])]
    for word, tag, following in zip(words, tags, outcomes, strict=True):
        log_probability += _log_softmax(params["emissions"][tag])[word]
        log_probability += _log_softmax(params["transitions"][tag])[following]
    return log_probability


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - log_sum_exp(logits)
