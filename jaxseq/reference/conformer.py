"""Twin of `nn.conformer`, without dropout."""

from typing import Any

import numpy as np

from jaxseq.reference.activations import silu
from jaxseq.reference.attention import self_attention
from jaxseq.reference.convolution import depthwise_layer
from jaxseq.reference.linear import linear
from jaxseq.reference.mlp import mlp
from jaxseq.reference.normalization import layer_norm
from jaxseq.reference.recurrent import sigmoid
from jaxseq.reference.transformer import at_layer


def convolution_module(
    params: dict[str, Any], x: np.ndarray, lengths: np.ndarray, *, causal: bool
) -> np.ndarray:
    """y = W_2 silu(norm(depthwise(glu(W_1 x)))) of x (B, T, D)."""
    a, b = np.split(linear(x, **params["in"]), 2, axis=-1)
    y = depthwise_layer(params["depthwise"], a * sigmoid(b), lengths, causal=causal)
    return linear(silu(layer_norm(y, **params["norm"])), **params["out"])


def conformer_block(
    params: dict[str, Any],
    x: np.ndarray,
    lengths: np.ndarray,
    *,
    causal: bool = False,
    **attend: Any,
) -> np.ndarray:
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, a norm.

    x is (B, T, D); `attend` goes to `self_attention`.
    """

    def normed(name: str) -> np.ndarray:
        return layer_norm(x, **params[f"{name}_norm"])

    steps = x.shape[1]
    segments = (np.arange(steps)[None] < lengths[:, None]).astype(int)
    where: dict[str, Any] = {"positions": np.arange(steps)[None], "segments": segments}
    x = x + mlp(params["mlp_1"], normed("mlp_1"), activation="silu") / 2
    x = x + self_attention(
        params["attention"], normed("attention"), causal=False, **where, **attend
    )
    y = normed("convolution")
    x = x + convolution_module(params["convolution"], y, lengths, causal=causal)
    x = x + mlp(params["mlp_2"], normed("mlp_2"), activation="silu") / 2
    return layer_norm(x, **params["norm"])


def conformer(
    params: dict[str, Any], x: np.ndarray, lengths: np.ndarray, num_layers: int, **fields: Any
) -> np.ndarray:
    """`num_layers` blocks in a row; every array in `params` has a leading layer axis."""
    for layer in range(num_layers):
        x = conformer_block(at_layer(params, layer), x, lengths, **fields)
    return x


def chunk_mask(num_steps: int, chunk: int, left_chunks: int) -> np.ndarray:
    """(1, T, T), True where step t may look at s: in its chunk or one of `left_chunks` before."""
    mask = np.zeros((1, num_steps, num_steps), bool)
    for t in range(num_steps):
        end = (t // chunk + 1) * chunk
        mask[0, t, max(0, end - (1 + left_chunks) * chunk) : end] = True
    return mask
