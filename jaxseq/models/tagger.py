"""Taggers: a linear chain of tags over what an encoder makes of the words.

The ladder from a hidden Markov model to a BiLSTM-CRF differs in two choices, what scores a tag at
a word and what scores one tag behind another; so every rung is this one model.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.errors import UserError
from jaxseq.nn.characters import CharacterCNN, CharacterLSTM
from jaxseq.nn.crf import CRF, legality
from jaxseq.nn.embedding import Embedding
from jaxseq.nn.linear import Linear
from jaxseq.nn.parameters import parameter
from jaxseq.nn.recurrent import CellName, RecurrentStack
from jaxseq.ops.chain import Chain
from jaxseq.ops.padding import valid_steps
from jaxseq.option_checks import check_range
from jaxseq.typing import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class TaggerConfig:
    """The architecture. The defaults are a BiLSTM-CNN-CRF (Ma and Hovy 2016, arXiv:1603.01354)."""

    encoder: Literal["recurrent", "features", "words"] = "recurrent"
    """What scores a tag at a word: a recurrent network both ways over the sentence, hand-made
    features of the word and its neighbours, or the word alone."""
    output: Literal["crf", "softmax", "hmm"] = "crf"
    """How tags depend on each other: a conditional random field, not at all, or (with the words
    alone) a hidden Markov model."""
    num_words: int = 0
    num_characters: int = 0
    num_features: int = 0
    """Sizes of the vocabularies; 0: the data's."""
    tags: tuple[str, ...] = ()
    """The tags; none: the data's."""
    scheme: Literal["none", "bio", "bioes"] = "none"
    """What the tags' names say of which may follow which; a CRF keeps to it."""
    cell: CellName = "lstm"
    """The recurrent encoder's cell."""
    num_layers: int = 1
    """Recurrent layers."""
    width: int = 200
    """Size of a recurrent layer's output, each way."""
    word_width: int = 100
    """Size of the word embeddings."""
    characters: Literal["cnn", "lstm", "none"] = "cnn"
    """What reads the characters of a word."""
    character_width: int = 50
    """Size of what is made of the characters of a word."""
    dropout: float = 0.5
    """Share of the recurrent encoder's inputs and outputs dropped in training."""
    word_dropout: float = 0.1
    """Share of words read as unknown ones in training."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute dtype: operands of matrix products. Parameters and sums stay float32."""

    def resolve(self, tags: tuple[str, ...], **sizes: int) -> "TaggerConfig":
        """The config with the tags and the sizes of the data's vocabularies filled in, checked.

        Raises UserError naming the option that is out of range or does not go with another.
        """
        resolved = dataclasses.replace(
            self,
            tags=self.tags or tags,
            **{name: getattr(self, name) or size for name, size in sizes.items()},
        )
        if resolved.scheme != "none":
            if resolved.output != "crf":
                raise UserError("--model.scheme constrains a CRF; it needs --model.output crf")
            legality(resolved.tags, resolved.scheme)
        if (resolved.output == "hmm") != (resolved.encoder == "words"):
            raise UserError(
                f"--model.output {resolved.output} does not go with --model.encoder "
                f"{resolved.encoder}: a hidden Markov model emits words, and alone does"
            )
        check_range(
            "model", resolved, "num_layers", "width", "word_width", "character_width", least=1
        )
        if resolved.characters == "lstm" and resolved.character_width % 2:
            raise UserError(
                f"--model.character-width {resolved.character_width} is odd; an LSTM each way "
                "needs an even one"
            )
        check_range("model", resolved, "dropout", "word_dropout", least=0, below=1)
        return resolved


class Tagger(nn.Module):
    """The chain of tags of each sentence: its best path is the answer.

        recurrent:  emissions = W BiLSTM([E[word]; CNN(characters)]) + b
        features:   emissions_t = b + sum over o in {-1, 0, 1}, f in features of word t + o
                    of  W_o[f], with W_o[0] = 0
        words:      emissions = log p(word | tag)

        crf:        transitions learned
        softmax:    transitions 0: every tag by itself
        hmm:        transitions = log p(tag | tag before), the end of a sentence among the tags

    `config` must be resolved: the sizes of the vocabularies filled in.
    """

    config: TaggerConfig
    deterministic: bool = True

    @nn.compact
    def __call__(
        self,
        words: Int[Array, "B T"],
        characters: Int[Array, "B T W"],
        features: Int[Array, "B T F"],
        lengths: Int[Array, "B"],
    ) -> Chain:
        """Returns the chain; see `data.tagged.TagTokenizer` for the numbers."""
        inside = valid_steps(lengths, words.shape[1])
        words = jnp.where(inside, words, 0)
        features = jnp.where(inside[..., None], features, 0)
        characters = jnp.where(inside[..., None], characters, 0)
        if self.config.output == "hmm":
            return self._hidden_markov_model(words, lengths)
        if self.config.encoder == "features":
            emissions = self._score_features(features)
        else:
            emissions = self._score_states(words, characters, lengths)
        if self.config.output == "crf":
            return CRF(self.config.tags, self.config.scheme, name="crf").chain(emissions, lengths)
        independent = jnp.zeros((len(self.config.tags),) * 2, emissions.dtype)
        return Chain(emissions, independent, lengths=lengths)

    def _score_states(self, words: Array, characters: Array, lengths: Array) -> Array:
        """Emissions (B T C) of the recurrent encoder."""
        config, dtype = self.config, jnp.dtype(self.config.dtype)
        if not self.deterministic:
            dropped = jax.random.bernoulli(
                self.make_rng("dropout"), config.word_dropout, words.shape
            )
            words = jnp.where(dropped, 0, words)
        table = Embedding(
            config.num_words, config.word_width, init_scale=0.1, dtype=dtype, name="words"
        )
        inputs = [table(words)]
        if config.characters != "none":
            kind = CharacterCNN if config.characters == "cnn" else CharacterLSTM
            spell = kind(
                config.num_characters, config.character_width, dtype=dtype, name="characters"
            )
            inputs.append(spell(characters))
        drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        states, _ = RecurrentStack(
            config.cell,
            config.width,
            config.num_layers,
            bidirectional=True,
            dropout_rate=config.dropout,
            deterministic=self.deterministic,
            dtype=dtype,
            name="recurrent",
        )(drop(jnp.concatenate(inputs, axis=-1)), lengths=lengths)
        scale = (2 * config.width) ** -0.5
        output = Linear(
            len(config.tags), ("embed", "classes"), init_scale=scale, dtype=dtype, name="output"
        )
        return output(drop(states))

    def _score_features(self, features: Array) -> Array:
        """Emissions (B T C) of the features of each word and of its neighbours."""
        config = self.config
        axes = ("vocab", "classes")
        bias = parameter(self, "bias", nn.initializers.zeros, axes[1:], (len(config.tags),))

        # Number 0, which training did not have or where there is no word, scores nothing.
        known = (features > 0)[..., None]

        def score(name: str) -> Array:
            table = Embedding(config.num_features, len(config.tags), axes, 0.0, name=name)
            return jnp.where(known, table(features), 0).sum(axis=2)

        before, behind = shift(score("before"), 1), shift(score("behind"), -1)
        return bias[None, None] + before + score("here") + behind

    def _hidden_markov_model(self, words: Array, lengths: Array) -> Chain:
        config = self.config
        tags = len(config.tags)

        def log_probabilities(name: str, outcomes: int, axes: tuple[str, ...]) -> Array:
            shape = (*(tags,) * (len(axes) - 1), outcomes)
            logits = parameter(self, name, nn.initializers.zeros, axes, shape)
            return jax.nn.log_softmax(logits, axis=-1)

        emissions = log_probabilities("emissions", config.num_words, ("classes", "vocab"))
        initial = log_probabilities("initial", tags, ("classes",))
        onward = log_probabilities("transitions", tags + 1, ("classes", "position"))
        return Chain(
            jnp.take(emissions.T, words, axis=0),
            onward[:, :tags],
            initial[None],
            onward[None, :, tags],
            lengths,
        )


def shift(x: Float[Array, "B T C"], steps: int) -> Float[Array, "B T C"]:
    """x moved `steps` later in time (earlier where negative), zeros moving in."""
    if steps == 0:
        return x
    moved = jnp.roll(x, steps, axis=1)
    edge = slice(None, steps) if steps > 0 else slice(steps, None)
    return moved.at[:, edge].set(0)
