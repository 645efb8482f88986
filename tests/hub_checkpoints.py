"""Checkpoints as transformers writes them, with random tensors: it need not be installed.

hub_checkpoints.json beside it holds the config.json and the tensors' names and shapes of a model
of one layer of each family. test_huggingface_parity.py says whether they still are so.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HUB: dict[str, dict[str, Any]] = json.loads(
    Path(__file__).with_name("hub_checkpoints.json").read_text(encoding="utf-8")
)
UNUSED_ROWS = "embed_positions.weight"
"""BART's tables of positions, whose first two rows nobody uses."""


def draw_tensors(name: str) -> dict[str, np.ndarray]:
    """Random tensors with the names and shapes of a family's checkpoint."""
    rng = np.random.default_rng(0)
    tensors = {}
    for tensor, shape in HUB[name]["tensors"].items():
        tensors[tensor] = rng.normal(size=shape).astype(np.float32)
        if tensor.endswith(UNUSED_ROWS):
            tensors[tensor][:2] = 0
    return tensors


def write_hub(
    path: Path, name: str, tensors: dict[str, np.ndarray] | None = None, **fields: Any
) -> dict[str, np.ndarray]:
    """A checkpoint of a family in `path`, with other `tensors` or `fields` of its config.json."""
    tensors = draw_tensors(name) if tensors is None else tensors
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(HUB[name]["config"] | fields), encoding="utf-8")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return tensors
