"""Recurrent cells whose state is linear in the state before: trained in parallel over time.

All have one contract. Called on x (B, T, D), a cell returns y (B, T, `features`) and the carry
after the last step read; a carry of an earlier call goes on from there (None: `zero_carry`). Row i
is read from step 0 to lengths[i] - 1, or from lengths[i] - 1 down to 0 if `reverse`; y stands at
the positions of x, is 0 in the padding, and padding matters to nothing. `step` reads one step
x (B, D) and equals the call. Products take operands of `dtype` (None: x's); gates and states are
float32 or wider, the carry of `zero_carry` is float32, or complex64 in the `LRU`.

Gates never depend on the state, so that h_t = a_t h_{t-1} + b_t is one `linear_recurrence`. It runs
in linear space: the gates a lie in (0, 1), and products of those cannot overflow.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jaxseq.nn.linear import Linear
from jaxseq.nn.normalization import RMSNorm
from jaxseq.nn.parameters import parameter
from jaxseq.ops.linear import linear
from jaxseq.ops.matrix_memory import matrix_memory
from jaxseq.ops.padding import valid_steps, zero_padding
from jaxseq.ops.precision import accumulator
from jaxseq.ops.recurrence import linear_recurrence
from jaxseq.typing import Array, Float, Int, Shaped

# How a cell runs h_t = a_t h_{t-1} + b_t over a sequence or over one step: h and the last state.
Recur = Callable[[Array, Array], tuple[Array, Array]]


class _GatedMean(nn.Module):
    """What `MinGRU` and `MinLSTM` share: states are running means, h_t = a_t h_{t-1} + b_t."""

    features: int
    dtype: jnp.dtype | None = None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: Float[Array, "B F"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B F"]]:
        """See the module."""
        a, b = self._gates(zero_padding(x, lengths))
        h, carry = linear_recurrence(a, b, carry, lengths, reverse=reverse)
        return h.astype(x.dtype), carry

    def step(
        self, x: Float[Array, "B D"], carry: Float[Array, "B F"]
    ) -> tuple[Float[Array, "B F"], Float[Array, "B F"]]:
        """See the module."""
        a, b = self._gates(x)
        h = a * carry + b
        return h.astype(x.dtype), h

    def zero_carry(self, batch_size: int) -> Float[Array, "B F"]:
        """h before the first step."""
        return jnp.zeros((batch_size, self.features))

    def _gates(self, x: Float[Array, "... D"]) -> tuple[Array, Array]:
        raise NotImplementedError


class MinGRU(_GatedMean):
    """The minimal GRU (Feng et al. 2024, arXiv:2410.01201), in linear space.

        z_t = sigmoid(W_z x_t + b_z)    c_t = W_h x_t + b_h    h_t = (1 - z_t) h_{t-1} + z_t c_t

    Their g(), which keeps candidates positive for the sake of logarithms, is not needed here.
    """

    @nn.compact
    def _gates(self, x: Float[Array, "... D"]) -> tuple[Array, Array]:
        update = jax.nn.sigmoid(project(self, "update", x))
        return 1 - update, update * project(self, "candidate", x)


class MinLSTM(_GatedMean):
    """The minimal LSTM (Feng et al. 2024, arXiv:2410.01201), in linear space.

        f_t = sigmoid(W_f x_t + b_f)    i_t = sigmoid(W_i x_t + b_i)    c_t = W_h x_t + b_h
        h_t = f_t / (f_t + i_t) h_{t-1} + i_t / (f_t + i_t) c_t

    f / (f + i) is computed as sigmoid(log f - log i), which divides by nothing that may vanish.
    """

    @nn.compact
    def _gates(self, x: Float[Array, "... D"]) -> tuple[Array, Array]:
        forget = jax.nn.log_sigmoid(project(self, "forget", x))
        difference = forget - jax.nn.log_sigmoid(project(self, "input", x))
        kept = jax.nn.sigmoid(difference)
        return kept, jax.nn.sigmoid(-difference) * project(self, "candidate", x)


class LRU(nn.Module):
    """The linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349), complex and diagonal.

        lambda = exp(-exp(nu) + i exp(theta))
        h_t = lambda * h_{t-1} + exp(gamma) * (B x_t)        y_t = Re(C h_t) + D x_t

    B, C are complex and h has `features` components; D is a full matrix, because x and y may
    differ in width. lambda starts evenly on the ring 0.9 <= |lambda| <= 0.999, any phase, and
    exp(gamma) = sqrt(1 - |lambda|^2), which makes h as large as its input.
    """

    features: int
    dtype: jnp.dtype | None = None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: Shaped[Array, "B F"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], Shaped[Array, "B F"]]:
        """See the module."""

        def recur(a: Array, b: Array) -> tuple[Array, Array]:
            return linear_recurrence(a, b, carry, lengths, reverse=reverse)

        return self._read(zero_padding(x, lengths), recur)

    def step(
        self, x: Float[Array, "B D"], carry: Shaped[Array, "B F"]
    ) -> tuple[Float[Array, "B F"], Shaped[Array, "B F"]]:
        """See the module."""

        def recur(a: Array, b: Array) -> tuple[Array, Array]:
            h = a * carry + b
            return h, h

        return self._read(x, recur)

    def zero_carry(self, batch_size: int) -> Shaped[Array, "B F"]:
        """h before the first step."""
        return jnp.zeros((batch_size, self.features), jnp.complex64)

    @nn.compact
    def _read(self, x: Float[Array, "... D"], recur: Recur) -> tuple[Array, Array]:
        wide, size = accumulator(x.dtype), (self.features,)
        nu = parameter(self, "nu", ring_radii, ("mlp",), size).astype(wide)
        theta = parameter(self, "theta", ring_phases, ("mlp",), size).astype(wide)

        def normalising(key: Array, shape: tuple[int, ...]) -> Array:
            return jnp.log1p(-jnp.exp(-2 * jnp.exp(nu))) / 2

        gamma = parameter(self, "gamma", normalising, ("mlp",), size).astype(wide)
        radius, phase = jnp.exp(-jnp.exp(nu)), jnp.exp(theta)
        decay = lax.complex(radius * jnp.cos(phase), radius * jnp.sin(phase))

        def matrix(name: str, scale: float, axes: tuple[str, str], width: int) -> Array:
            init = nn.initializers.normal(scale)
            return parameter(self, name, init, axes, (width, self.features))

        into = (2 * x.shape[-1]) ** -0.5
        outer, back = ("embed", "mlp"), self.features**-0.5
        b_real, b_imag = (matrix(f"b_{part}", into, outer, x.shape[-1]) for part in PARTS)
        c_real, c_imag = (matrix(f"c_{part}", back, ("mlp", "embed"), *size) for part in PARTS)
        d = matrix("d", x.shape[-1] ** -0.5, outer, x.shape[-1])

        signal = x.astype(wide)
        scale = jnp.broadcast_to(jnp.exp(gamma), (*x.shape[:-1], *size))
        real = scale * linear(signal, b_real, dtype=self.dtype)
        imag = scale * linear(signal, b_imag, dtype=self.dtype)
        drive = lax.complex(real, imag)
        h, carry = recur(jnp.broadcast_to(decay, drive.shape), drive)
        y = linear(h.real, c_real, dtype=self.dtype) - linear(h.imag, c_imag, dtype=self.dtype)
        y = y + linear(signal, d, dtype=self.dtype)
        return y.astype(x.dtype), carry


PARTS = ("real", "imag")


def ring_radii(key: Array, shape: tuple[int, ...]) -> Array:
    """nu for which |lambda|^2 is uniform in [0.9^2, 0.999^2]: points even over the ring's area."""
    square = jax.random.uniform(key, shape, minval=0.9**2, maxval=0.999**2)
    return jnp.log(-0.5 * jnp.log(square))


def ring_phases(key: Array, shape: tuple[int, ...]) -> Array:
    """theta for which the phase of lambda is uniform in (0, 2 pi)."""
    return jnp.log(2 * jnp.pi * jax.random.uniform(key, shape, minval=1e-6))


class RGLRUCarry(NamedTuple):
    """What an `RGLRU` hands on: its state, and the last inputs of its convolution, oldest first."""

    state: Float[Array, "B F"]
    inputs: Float[Array, "B 3 F"]


class RGLRU(nn.Module):
    """The real-gated linear recurrent unit behind a temporal convolution (Griffin: De et al. 2024,
    arXiv:2402.19427).

        v_t = W_in x_t + b_in                 u_t = b_conv + sum_{k=0..3} w_k * v_{t-3+k}
        r_t = sigmoid(W_r u_t + b_r)          i_t = sigmoid(W_i u_t + b_i)
        a_t = sigmoid(Lambda)^(8 r_t)         h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t * u_t)

    W_r and W_i are dense, where the paper has them block-diagonal to save exchange between
    devices. sigmoid(Lambda)^8 starts evenly in [0.9, 0.999]. The GeLU branch and the output map of
    Griffin's block are the business of the model around the cell.
    """

    features: int
    dtype: jnp.dtype | None = None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: RGLRUCarry | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], RGLRUCarry]:
        """See the module."""
        batch, num_steps, _ = x.shape
        carry = self.zero_carry(batch) if carry is None else carry
        x = zero_padding(x, lengths)
        # Time runs backwards for the convolution too, so the rows themselves are turned around.
        if reverse:
            x = turned(x, lengths)
        a, b, inputs = self._gates(x, carry.inputs)
        h, state = linear_recurrence(a, b, carry.state, lengths)
        if reverse:
            h = turned(h, lengths)
        ends = jnp.full((batch,), num_steps) if lengths is None else jnp.minimum(lengths, num_steps)
        inputs = jax.vmap(lambda row, end: lax.dynamic_slice_in_dim(row, end, 3))(inputs, ends)
        return h.astype(x.dtype), RGLRUCarry(state, inputs)

    def step(
        self, x: Float[Array, "B D"], carry: RGLRUCarry
    ) -> tuple[Float[Array, "B F"], RGLRUCarry]:
        """See the module."""
        a, b, inputs = self._gates(x[:, None], carry.inputs)
        h = a[:, 0] * carry.state + b[:, 0]
        return h.astype(x.dtype), RGLRUCarry(h, inputs[:, 1:])

    def zero_carry(self, batch_size: int) -> RGLRUCarry:
        """No state, and silence before the first input."""
        return RGLRUCarry(
            jnp.zeros((batch_size, self.features)), jnp.zeros((batch_size, 3, self.features))
        )

    @nn.compact
    def _gates(self, x: Float[Array, "B T D"], before: Float[Array, "B 3 F"]) -> tuple:
        """a, b and the convolution's inputs, those of the carry included: (B, 3 + T, F)."""
        num_steps, width = x.shape[1], self.features
        current = project(self, "in", x)
        inputs = jnp.concatenate([before.astype(current.dtype), current], axis=1)
        init = nn.initializers.normal(0.5)
        taps = parameter(self, "taps", init, ("norm", "mlp"), (4, width)).astype(current.dtype)
        bias = parameter(self, "bias", nn.initializers.zeros, ("mlp",), (width,))
        u = jnp.broadcast_to(bias.astype(current.dtype), current.shape)
        for k in range(4):
            u = u + jnp.broadcast_to(taps[k], u.shape) * inputs[:, k : k + num_steps]
        u_low = u.astype(x.dtype)
        recurrence, gate = (
            jax.nn.sigmoid(project(self, name, u_low)) for name in ("recurrence", "gate")
        )
        rates = parameter(self, "decay", slow_decays, ("mlp",), (width,)).astype(u.dtype)
        log_a = jnp.broadcast_to(8 * jax.nn.log_sigmoid(rates), u.shape) * recurrence
        # The floor keeps the slope of the root finite where a gate has closed for good (a = 1).
        room = jnp.maximum(-jnp.expm1(2 * log_a), jnp.finfo(u.dtype).tiny)
        return jnp.exp(log_a), jnp.sqrt(room) * gate * u, inputs


def slow_decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Lambda for which sigmoid(Lambda)^8 is uniform in [0.9, 0.999]."""
    root = jax.random.uniform(key, shape, minval=0.9, maxval=0.999) ** (1 / 8)
    return jnp.log(root) - jnp.log1p(-root)


class MatrixMemory(nn.Module):
    """Gated linear attention (Yang et al. 2023, arXiv:2312.06635) with one decay per head.

        M_t = alpha_t M_{t-1} + k_t v_t^T        alpha_t = sigmoid(w x_t + b)^(1/16)
        o_t = M_t^T q_t                          y_t = W_out (rms_norm(o_t) * silu(W_gate x_t))

    per head, with q, k, v = W_q x / sqrt(H), W_k x, W_v x, and heads of H = features / num_heads.

    Why not the mLSTM (Beck et al. 2024, arXiv:2405.04517), the other matrix memory: its exponential
    input gate needs a running maximum and a normaliser beside the memory, both of which have to be
    carried and combined across chunks. Here decays lie in (0, 1) and the norm of o takes the
    normaliser's place, so chunks are plain matrix products. Why one decay per head, where the paper
    has one per key component: then exp(l_t - l_s) is one number for each pair of steps, formed
    directly and never above 1; per component it would have to be split into exp(l_t) exp(-l_s),
    which overflows.

    Raises ValueError when the heads do not divide the features.
    """

    features: int
    num_heads: int = 4
    dtype: jnp.dtype | None = None

    def __call__(
        self,
        x: Float[Array, "B T D"],
        carry: Float[Array, "B N H H"] | None = None,
        lengths: Int[Array, "B"] | None = None,
        *,
        reverse: bool = False,
    ) -> tuple[Float[Array, "B T F"], Float[Array, "B N H H"]]:
        """See the module."""
        return self._read(zero_padding(x, lengths), carry, lengths, reverse)

    def step(
        self, x: Float[Array, "B D"], carry: Float[Array, "B N H H"]
    ) -> tuple[Float[Array, "B F"], Float[Array, "B N H H"]]:
        """See the module."""
        y, carry = self._read(x[:, None], carry, None, False)
        return y[:, 0], carry

    def zero_carry(self, batch_size: int) -> Float[Array, "B N H H"]:
        """An empty memory."""
        size = self.features // self.num_heads
        return jnp.zeros((batch_size, self.num_heads, size, size))

    @nn.compact
    def _read(
        self, x: Array, memory: Array | None, lengths: Array | None, reverse: bool
    ) -> tuple[Array, Array]:
        if self.features % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide {self.features} features")
        size, wide = self.features // self.num_heads, accumulator(x.dtype)

        def heads(name: str) -> Float[Array, "B T N H"]:
            y = project(self, name, x, use_bias=False)
            return y.reshape(*x.shape[:2], self.num_heads, size)

        decay = Linear(self.num_heads, ("embed", "heads"), True, x.shape[-1] ** -0.5, name="decay")
        o, memory = matrix_memory(
            *(heads("query") * size**-0.5, heads("key"), heads("value")),
            jax.nn.log_sigmoid(decay(x.astype(wide))) / 16,
            *(memory, lengths),
            reverse=reverse,
            dtype=self.dtype or x.dtype,
        )
        o = RMSNorm(name="norm")(o).reshape(*x.shape[:2], self.features)
        o = o * jax.nn.silu(project(self, "gate", x, use_bias=False))
        out = Linear(
            *(self.features, ("mlp", "embed"), False, self.features**-0.5, self.dtype or x.dtype),
            name="out",
        )
        return out(o).astype(x.dtype), memory


def project(
    module: nn.Module, name: str, x: Float[Array, "... D"], *, use_bias: bool = True
) -> Float[Array, "... F"]:
    """W x + b in float32 or wider, for a cell that has `features` and a compute `dtype`."""
    layer = Linear(
        *(module.features, ("embed", "mlp"), use_bias, x.shape[-1] ** -0.5),
        dtype=module.dtype or x.dtype,
        name=name,
    )
    return layer(x.astype(accumulator(x.dtype)))


def turned(x: Float[Array, "B T F"], lengths: Int[Array, "B"] | None) -> Float[Array, "B T F"]:
    """Each row's valid steps in the opposite order; the padding stays where it is."""
    if lengths is None:
        return jnp.flip(x, 1)
    steps = jnp.arange(x.shape[1])[None, :]
    source = jnp.where(
        valid_steps(lengths, x.shape[1]),
        jnp.minimum(lengths, x.shape[1])[:, None] - 1 - steps,
        steps,
    )
    return jnp.take_along_axis(x, source[:, :, None], axis=1)
