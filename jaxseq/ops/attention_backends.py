"""Which backend computes attention: what each can do, and the two that call a library's kernel.

| backend | where | what it cannot do |
|---|---|---|
| dense | everywhere | |
| chunked | everywhere | |
| ring | meshes that divide time | position bias, a mask by query, dropout, cached keys |
| cudnn | NVIDIA GPUs, 16-bit operands | position bias, soft cap, dropout |
| splash | TPUs | position bias, mask, dropout, a traced window or query_start, float64 |

"auto" takes the ring where the mesh around the trace divides time (`--mesh.context`). Else, and
where the ring cannot do the options (keys and values are then gathered), it takes the kernel of the
platform that the program is lowered for (ahead of time for a TPU from a CPU too), where that can;
else "chunked" from `LONG` x `LONG` scores a head on, and "dense" below. cuDNN can only be traced
where a CUDA device is, so that it is never chosen ahead of time from elsewhere.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from jaxseq.ops import ring_attention, splash
from jaxseq.ops.attention_scores import Options
from jaxseq.parallel.rules import constrain
from jaxseq.typing import Array, Float

Backend = Literal["auto", "dense", "chunked", "ring", "cudnn", "splash"]
Attend = Callable[[Array, Array, Array], Array]

# From here on chunked is no slower than dense on CPUs, measured by scripts/bench_attention.py.
LONG = 1024


def choose(
    query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], options: Options
) -> dict[str, Backend]:
    """The backend of "auto" by platform; "default" is for every platform without its own."""
    if ring_attention.refusal(query, key, options) is None:
        return {"default": "ring"}
    long = query.shape[1] * key.shape[1] >= LONG**2
    chosen: dict[str, Backend] = {}
    if _splash_refusal(query, key, options) is None:
        chosen["tpu"] = "splash"
    # A mask or segments cost cuDNN an array of T x S a row of the batch.
    sparse = _cudnn_needs_mask(query, key, options)
    if not (long and sparse) and _cudnn_refusal(query, key, options) is None and has_cudnn():
        chosen["cuda"] = "cudnn"
    chosen["default"] = "chunked" if long else "dense"
    return chosen


def refusal(
    backend: Backend, query: Float[Array, "B T N H"], key: Float[Array, "B S K H"], options: Options
) -> str | None:
    """The option that `backend` cannot do, or None."""
    if backend == "ring":
        return ring_attention.refusal(query, key, options)
    if backend == "cudnn":
        return _cudnn_refusal(query, key, options)
    return _splash_refusal(query, key, options) if backend == "splash" else None


def gathered(run: Attend, backends: Collection[Backend]) -> Attend:
    """Attention by `run`, which is one of these backends, where the mesh divides time.

    All but the ring want keys and values whole, and all but "dense" go through queries, and through
    the gradient of what comes out, in loops too: what is divided would be gathered at each step.
    """
    axes = "batch", None, "heads", None

    def on_whole(query: Array, key: Array, value: Array) -> Array:
        key, value = constrain(key, *axes), constrain(value, *axes)
        if set(backends) == {"dense"}:
            return run(query, key, value)
        return constrain(run(constrain(query, *axes), key, value), *axes)

    return on_whole


# --- cuDNN ---------------------------------------------------------------------------------------


def has_cudnn() -> bool:
    """Whether this process has an NVIDIA GPU that cuDNN's attention runs on."""
    device = jax.devices()[0]
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return False
    return float(device.compute_capability) >= 8.0


def with_cudnn(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    options: Options,
) -> Float[Array, "B T N H"]:
    """Attention by cuDNN, through `jax.nn`, held to the contract.

    What cuDNN has no flag for becomes a mask, with which a query that sees nothing would give the
    mean of the values: its output is set to 0 here, and with it its gradient.
    """
    run = partial(jax.nn.dot_product_attention, scale=options.scale, implementation="cudnn")
    dtype = query.dtype
    if not _cudnn_needs_mask(query, key, options):
        assert options.window is None or isinstance(options.window, int)
        query, key, value = (x.astype(options.dtype) for x in (query, key, value))
        left = None if options.window is None else (options.window - 1, 0)
        return run(query, key, value, is_causal=options.causal, local_window_size=left).astype(
            dtype
        )
    visible = options.visible(query.shape[1], key.shape[1])
    assert visible is not None
    looks, is_seen = visible.any(2)[..., None, None], visible.any(1)[..., None, None]
    query, key, value = (
        jnp.where(takes_part, x, 0).astype(options.dtype)
        for takes_part, x in ((looks, query), (is_seen, key), (is_seen, value))
    )
    return jnp.where(looks, run(query, key, value, mask=visible[:, None]), 0).astype(dtype)


def _cudnn_needs_mask(query: Array, key: Array, options: Options) -> bool:
    """Whether the options are more than the causal square and window that cuDNN has flags for."""
    if options.mask is not None or options.query_segments is not None:
        return True
    if options.window is not None and not (options.causal and isinstance(options.window, int)):
        return True
    square = query.shape[1] == key.shape[1] and options.query_start is None
    return options.causal and not square


def _cudnn_refusal(query: Array, key: Array, options: Options) -> str | None:
    queries, keys, size = query.shape[1], key.shape[1], query.shape[3]
    if options.dtype not in (jnp.bfloat16, jnp.float16):
        return f"dtype {options.dtype}: it takes bfloat16 and float16"
    if size > 128 or size % 8:
        return f"a head size of {size}: it takes multiples of 8 up to 128"
    if not (queries and keys):
        return "length 0"
    if _cudnn_needs_mask(query, key, options) and (queries % 2 or keys % 2):
        return f"a mask, segments or query_start over odd lengths {queries} and {keys}"
    return _common_refusal(options) or (None if options.soft_cap is None else "soft_cap")


def _common_refusal(options: Options) -> str | None:
    if options.bias is not None:
        return "bias"
    return None if options.dropout_key is None else "dropout"


# --- Splash --------------------------------------------------------------------------------------


def with_splash(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    options: Options,
) -> Float[Array, "B T N H"]:
    """Attention by JAX's splash kernel, held to the contract.

    The kernel knows no empty row: what takes part in no pair goes in as 0, and comes out as 0,
    and with it its gradient. Heads are filled up with zeros to the width of the chip's products,
    which are no slower for it.
    """
    queries, keys, dtype, size = query.shape[1], key.shape[1], query.dtype, query.shape[3]
    fill = [(0, 0)] * 3 + [(0, -size % splash.HEAD)]
    query, key, value = (jnp.pad(x, fill) for x in (query, key, value))
    start, window = options.start(queries, keys), options.window
    assert isinstance(start, int)
    assert window is None or isinstance(window, int)
    looks = None
    if options.may_pad(queries, keys):
        visible = options.visible(queries, keys)
        assert visible is not None
        looks, is_seen = visible.any(2)[..., None, None], visible.any(1)[..., None, None]
        query = jnp.where(looks, query, 0)
        key, value = jnp.where(is_seen, key, 0), jnp.where(is_seen, value, 0)
    grouped = (query * options.scale).reshape(*query.shape[:2], key.shape[2], -1, query.shape[3])
    segments = ()
    if options.query_segments is not None and options.key_segments is not None:
        segments = options.query_segments, options.key_segments
    output = splash.splash_attention(
        grouped.transpose(0, 2, 3, 1, 4).astype(options.dtype),
        key.transpose(0, 2, 1, 3).astype(options.dtype),
        value.transpose(0, 2, 1, 3).astype(options.dtype),
        segments,
        splash.Kernel(options.causal, window, start, options.soft_cap),
    )
    output = output.transpose(0, 3, 1, 2, 4).reshape(query.shape)[..., :size]
    return (output if looks is None else jnp.where(looks, output, 0)).astype(dtype)


def _splash_refusal(query: Array, key: Array, options: Options) -> str | None:
    queries, keys, size = query.shape[1], key.shape[1], query.shape[3]
    if options.dtype not in (jnp.bfloat16, jnp.float32):
        return f"dtype {options.dtype}: it takes bfloat16 and float32"
    if size < splash.HEAD // 2:
        return f"a head size of {size}: it takes {splash.HEAD // 2} and more"
    if not (queries and keys) or queries % splash.BLOCK or keys % splash.BLOCK:
        return f"lengths {queries} and {keys}: it takes multiples of {splash.BLOCK}"
    start, window = options.start(queries, keys), options.window
    if not isinstance(start, int):
        return "a query_start that is an array"
    if not (window is None or isinstance(window, int)):
        return "a window that is an array"
    sees_no_key = window is not None and start + queries - window >= keys
    if (options.causal or window is not None) and (start < 0 or sees_no_key):
        return "queries that stand too far before or behind the keys to see one"
    return _common_refusal(options) or (None if options.mask is None else "mask")
