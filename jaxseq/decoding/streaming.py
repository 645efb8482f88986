"""Tokens handed to Python while the compiled program that draws them is still running."""

import itertools
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from jaxseq.typing import Array, Bool, Int

# A compiled program is used again by later calls, so it cannot hold on to one call's queue: it
# takes the number of a stream as an argument and finds the queue here. No queue: closed.
_open_streams: dict[int, queue.SimpleQueue[np.ndarray | None]] = {}
_numbers = itertools.count()


def send(stream: Int[Array, ""], tokens: Int[Array, "B"]) -> Bool[Array, ""]:
    """Inside jit: hands `tokens` to `receive`; False when nobody listens any more."""
    # Not `ordered`, which is for one device only: the caller's loop waits for the answer.
    return io_callback(_deliver, jax.ShapeDtypeStruct((), jnp.bool_), stream, tokens)


def receive(
    program: Callable[[np.ndarray], Array], on_tokens: Callable[[np.ndarray], None]
) -> Array:
    """Runs `program(stream)` and calls `on_tokens` with all that it sends; returns its result.

    The program runs in a thread of its own, so that `on_tokens` is an ordinary call in the
    caller's thread: what it raises, and Ctrl-C, reach the caller as they are instead of as an XLA
    error. The program is told to stop and waited for first.
    """
    stream = next(_numbers)
    received = _open_streams[stream] = queue.SimpleQueue()
    with ThreadPoolExecutor(1) as thread:
        try:
            result = thread.submit(
                lambda: jax.block_until_ready(program(np.array(stream, np.int32)))
            )
            result.add_done_callback(lambda _: received.put(None))
            while (tokens := received.get()) is not None:
                on_tokens(tokens)
            return result.result()
        finally:
            del _open_streams[stream]


def _deliver(stream: Array, tokens: Array) -> np.ndarray:
    received = _open_streams.get(int(stream))
    if received is not None:
        received.put(np.asarray(tokens))
    return np.asarray(received is not None)
