"""Recurrent layers, Elman, LSTM and GRU, and stacks of them.

Every recurrent layer, those of `nn.linear_recurrent` too, keeps one contract:

    layer(x "B T D", carry=None, lengths "B"=None, *, reverse=False) -> (y "B T F", carry)
    layer.step(x "B D", carry) -> (y "B F", carry)     a call with T = 1, for streaming
    layer.zero_carry(batch_size) -> carry              what `carry=None` stands for

A carry is a tree of float32 arrays (complex64 in the LRU) whose first axis is the batch; zero_carry
needs no parameters. Row b is read from step 0 to step lengths[b] - 1, or from there to step 0 if
`reverse`; y stays at its input's position; y is 0 in the padding and the carry is that after the
last step read. What stands in the padding, NaN included, changes neither. A length of 0 leaves the
carry as it was.

Recurrent kernels start orthogonal, gate by gate (Saxe et al. 2013, arXiv:1312.6120): with all
singular values 1 the state neither dies out nor explodes over time at the start, whereas torch's
uniform(-1/sqrt(F), 1/sqrt(F)) gives a matrix of norm near 1.15 and spectral radius 0.58, which
forgets by half at every step. Input kernels start as normal numbers of variance 1/D, so that gates
have the variance of the input for any size of either. Biases start at 0, and the LSTM's forget gate
at 1 so that it remembers (Jozefowicz et al. 2015).
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxseq.nn.linear_recurrent import LRU, RGLRU, MatrixMemory, MinGRU, MinLSTM
from jaxseq.nn.normalization import LayerNorm
from jaxseq.nn.parameters import parameter
from jaxseq.ops.elman import Activation, elman
from jaxseq.ops.gru import gru
from jaxseq.ops.linear import linear
from jaxseq.ops.lstm import lstm
from jaxseq.ops.padding import zero_padding
from jaxseq.typing import Array, Float, Int, PyTree

Carry = PyTree
State = Float[Array, "B F"]

CellName = Literal["elman", "lstm", "gru", "mingru", "minlstm", "lru", "rglru", "matrix"]

INPUT_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


class Elman(nn.Module):
    """h_t = sigma(x_t W + h_{t-1} U + b), and y_t = h_t W_y + b_y, or y_t = h_t by default.

    `output_features` is the width of y; `activation` names sigma. The carry is h. With
    `state_dropout_rate`, h_{t-1} is multiplied by one dropout mask per sequence before U (Gal and
    Ghahramani 2016, arXiv:1512.05287), drawn from the key "dropout" unless `deterministic`.
    """

    features: int
    activation: Activation = "tanh"
    output_features: int | None = None
    state_dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def _parameters(self, inputs: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        outputs: tuple[Array, ...] = ()
        if self.output_features is not None:
            shape = (self.features, self.output_features)
            outputs = (
                parameter(self, "output_kernel", INPUT_INIT, ("mlp", "embed"), shape),
                parameter(self, "output_bias", nn.initializers.zeros, ("embed",), shape[1:]),
            )
        return gate_parameters(self, inputs, self.features, gates=1), outputs

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: State | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T O"], State]:
        """See the contract above."""
        gates, outputs = self._parameters(x.shape[-1])
        y, carry = elman(
            x,
            *gates,
            carry=carry,
            lengths=lengths,
            activation=self.activation,
            state_mask=state_mask(self, x.shape[0]),
            reverse=reverse,
            dtype=self.dtype,
        )
        if outputs:
            y = zero_padding(linear(y, *outputs, dtype=self.dtype), lengths)
        return y, carry

    def step(self, x: Float[Array, "B D"], carry: State) -> tuple[Float[Array, "B O"], State]:
        """See the contract above."""
        y, carry = self(x[:, None], carry)
        return y[:, 0], carry

    def zero_carry(self, batch_size: int) -> State:
        """h of zeros."""
        return jnp.zeros((batch_size, self.features))


class LSTM(nn.Module):
    """Long short-term memory; see `ops.lstm` for the equations. The carry is (h, c).

    `state_dropout_rate` is as in `Elman`.
    """

    features: int
    state_dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def _parameters(self, inputs: int) -> tuple[Array, Array, Array]:
        return gate_parameters(self, inputs, self.features, gates=4, bias_init=forget_gate_at_one)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: tuple[State, State] | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], tuple[State, State]]:
        """See the contract above."""
        return lstm(
            x,
            *self._parameters(x.shape[-1]),
            carry=carry,
            lengths=lengths,
            state_mask=state_mask(self, x.shape[0]),
            reverse=reverse,
            dtype=self.dtype,
        )

    def step(
        self, x: Float[Array, "B D"], carry: tuple[State, State]
    ) -> tuple[Float[Array, "B F"], tuple[State, State]]:
        """See the contract above."""
        y, carry = self(x[:, None], carry)
        return y[:, 0], carry

    def zero_carry(self, batch_size: int) -> tuple[State, State]:
        """(h, c) of zeros."""
        zeros = jnp.zeros((batch_size, self.features))
        return zeros, zeros


class GRU(nn.Module):
    """Gated recurrent unit in torch's variant; see `ops.gru` for the equations. The carry is h.

    `state_dropout_rate` is as in `Elman`.
    """

    features: int
    state_dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    @nn.compact
    def _parameters(self, inputs: int) -> tuple[Array, Array, Array, Array]:
        gates = gate_parameters(self, inputs, self.features, gates=3)
        zeros, shape = nn.initializers.zeros, (self.features,)
        return *gates, parameter(self, "recurrent_bias", zeros, ("mlp",), shape)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: State | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], State]:
        """See the contract above."""
        return gru(
            x,
            *self._parameters(x.shape[-1]),
            carry=carry,
            lengths=lengths,
            state_mask=state_mask(self, x.shape[0]),
            reverse=reverse,
            dtype=self.dtype,
        )

    def step(self, x: Float[Array, "B D"], carry: State) -> tuple[Float[Array, "B F"], State]:
        """See the contract above."""
        y, carry = self(x[:, None], carry)
        return y[:, 0], carry

    def zero_carry(self, batch_size: int) -> State:
        """h of zeros."""
        return jnp.zeros((batch_size, self.features))


CELLS: dict[str, type[nn.Module]] = {
    "elman": Elman,
    "lstm": LSTM,
    "gru": GRU,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
    "lru": LRU,
    "rglru": RGLRU,
    "matrix": MatrixMemory,
}


class RecurrentStack(nn.Module):
    """`num_layers` recurrent layers, each fed the output of the one below.

    Layer l computes, with f its cell (one of `make_cell`):

        u = x, normalised if `layer_norm` (LayerNorm of each layer's input: "pre-norm"),
            times one dropout mask per sequence if `variational_dropout_rate`
        y = f(u), or if `bidirectional` [f(u), g(u)] where g reads backwards: 2F wide
        y = x + y if `residual` and x is as wide as y (the first layer's input often is not)

    and between layers, as in torch, `dropout_rate` drops single numbers. Variational dropout (Gal
    and Ghahramani 2016, arXiv:1512.05287) uses the same mask at every step of a sequence;
    `state_dropout_rate` does the same to the state that a cell multiplies (elman, lstm and gru
    alone). Masks come from the key "dropout", unless `deterministic`.

    Called and stepped like one layer (see `nn.recurrent`): the carry is a tuple with the carry of
    each layer, or the pair (forward, backward) of each layer. A carry fed into the next call
    continues the sequence exactly; wrap it in `lax.stop_gradient` for truncated backpropagation.
    """

    cell: CellName
    features: int
    num_layers: int = 1
    bidirectional: bool = False
    residual: bool = False
    layer_norm: bool = False
    dropout_rate: float = 0.0
    variational_dropout_rate: float = 0.0
    state_dropout_rate: float = 0.0
    deterministic: bool = True
    dtype: jnp.dtype | None = None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: tuple[Carry, ...] | None = None,
        lengths: Int[Array, "B"] | None = None,
    ) -> tuple[Float[Array, "B T F"], tuple[Carry, ...]]:
        """Returns (the last layer's output, the carries after the last step read)."""
        # Norms and dropout must not meet what stands in the padding either.
        return self._layers(zero_padding(x, lengths), carry, lengths, streaming=False)

    def step(
        self, x: Float[Array, "B D"], carry: tuple[Carry, ...]
    ) -> tuple[Float[Array, "B F"], tuple[Carry, ...]]:
        """One step of every layer; ValueError if bidirectional."""
        if self.bidirectional:
            raise ValueError("bidirectional=True: a stack that reads backwards cannot step")
        return self._layers(x, carry, None, streaming=True)

    def zero_carry(self, batch_size: int) -> tuple[Carry, ...]:
        """The carries that `carry=None` stands for."""
        zero = self._cell(parent=None).zero_carry(batch_size)
        return ((zero, zero) if self.bidirectional else zero,) * self.num_layers

    @nn.compact
    def _layers(
        self, x: Array, carry: tuple[Carry, ...] | None, lengths: Array | None, *, streaming: bool
    ) -> tuple[Array, tuple[Carry, ...]]:
        before = carry if carry is not None else self.zero_carry(x.shape[0])
        if len(before) != self.num_layers:
            raise ValueError(f"carry has {len(before)} entries for {self.num_layers} layers")
        after = []
        for i, state in enumerate(before):
            u = LayerNorm(name=f"norm_{i}")(x) if self.layer_norm else x
            per_sequence = (1,) if u.ndim == 3 else ()
            u = nn.Dropout(self.variational_dropout_rate, per_sequence)(
                u, deterministic=self.deterministic
            )
            layer = self._cell(name=f"layer_{i}")
            if streaming:
                y, state = layer.step(u, state)
            elif self.bidirectional:
                y, forward = layer(u, state[0], lengths)
                backwards = self._cell(name=f"layer_{i}_reverse")
                back, backward = backwards(u, state[1], lengths, reverse=True)
                y, state = jnp.concatenate([y, back], axis=-1), (forward, backward)
            else:
                y, state = layer(u, state, lengths)
            x = x + y if self.residual and x.shape == y.shape else y
            if i < self.num_layers - 1:
                x = nn.Dropout(self.dropout_rate)(x, deterministic=self.deterministic)
            after.append(state)
        return x, tuple(after)

    def _cell(self, **keywords: Any) -> nn.Module:
        if self.state_dropout_rate:
            rate = {"state_dropout_rate": self.state_dropout_rate}
            keywords = {**keywords, **rate, "deterministic": self.deterministic}
        return make_cell(self.cell, self.features, dtype=self.dtype, **keywords)


def make_cell(cell: CellName, features: int, **fields: Any) -> nn.Module:
    """The recurrent layer of this name; ValueError for state dropout where no kernel meets it."""
    if "state_dropout_rate" in fields and cell not in ("elman", "lstm", "gru"):
        raise ValueError(f"state_dropout_rate: cell {cell!r} multiplies its state by no kernel")
    return CELLS[cell](features, **fields)


def gate_parameters(
    module: nn.Module,
    inputs: int,
    features: int,
    *,
    gates: int,
    bias_init: nn.initializers.Initializer = nn.initializers.zeros,
) -> tuple[Array, Array, Array]:
    """Kernel (D, G), recurrent kernel (F, G) and bias (G,) for G = gates x F."""
    width, axes = gates * features, ("embed", "mlp")
    return (
        parameter(module, "kernel", INPUT_INIT, axes, (inputs, width)),
        parameter(module, "recurrent_kernel", orthogonal_gates, axes, (features, width)),
        parameter(module, "bias", bias_init, axes[1:], (width,)),
    )


def orthogonal_gates(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """A random orthogonal (F, F) matrix for each gate, side by side."""
    features, width = shape
    draw = nn.initializers.orthogonal()
    keys = jax.random.split(key, width // features)
    return jnp.concatenate([draw(k, (features, features), dtype) for k in keys], axis=1)


def forget_gate_at_one(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Zeros, but ones for the second of four gates."""
    return jnp.repeat(jnp.array([0, 1, 0, 0], dtype), shape[0] // 4)


def state_mask(module: Elman | LSTM | GRU, batch_size: int) -> Float[Array, "B F"] | None:
    """What multiplies the state at every step of a sequence: 0, or 1 / (1 - rate)."""
    rate = module.state_dropout_rate
    if module.deterministic or rate == 0:
        return None
    shape = (batch_size, module.features)
    return jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, shape) / (1 - rate)
