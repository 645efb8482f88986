"""The glossary of array axes, and the annotations that spell it.

Public functions annotate their arrays as `Float[Array, "B T D"]`: kind, array type, axis names.
One letter means one thing everywhere in jaxseq:

| axis | meaning | axis | meaning |
|---|---|---|---|
| B | batch | H | size of one head |
| T | query time (the sequence being computed) | D | model width |
| S | key time (the sequence being looked at) | F | feed-forward width |
| N | query heads | V | vocabulary |
| K | key/value heads, N a multiple of K | C | classes, tags or states |
| L | layers | M | mel bands |
| n | samples of a waveform | | |

Batch is axis 0 and time is axis 1. A leading `#` lets an axis have size 1 and broadcast, `...` is
any number of leading axes. Tests check every annotation at run time.
"""

from jax import Array
from jaxtyping import Bool, Complex, Float, Int, Key, PyTree, Shaped

__all__ = ["Array", "Bool", "Complex", "Float", "Int", "Key", "PyTree", "Shaped"]
