"""What a run starts from, which of its parameters move, and how fast each layer does."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax.linen import LogicallyPartitioned as Box

from jaxseq.errors import UserError
from jaxseq.nn.parameters import flatten
from jaxseq.option_checks import check_range
from jaxseq.training.lora import SCALE, is_adapter, with_adapters
from jaxseq.typing import Array, Key, PyTree


@dataclasses.dataclass(frozen=True)
class FineTune:
    """Fine-tuning; the defaults train every parameter, all of them fresh, at one rate."""

    from_run: Path | None = None
    """A run directory to start from: its architecture (whatever --model says), its tokenizer, and
    its parameters where this model has them too."""
    checkpoint: str = "last"
    """Which of its checkpoints: "last", "best" (by validation loss), or a step."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are: beginnings of their paths (`embedding`, `encoder/blocks`)
    or patterns of whole paths (`*/bias`)."""
    layer_decay: float = 1.0
    """Learning rate and weight decay of a block, as a share of those of the block above it; those
    above all blocks have the whole rate, embeddings a step less than the lowest block."""
    lora_rank: int = 0
    """Train adapters of this rank, and what is fresh, alone (LoRA, Hu et al. 2021); 0: no
    adapters."""
    lora_alpha: float = 16.0
    """What an adapter adds is scaled by lora_alpha / lora_rank."""
    lora_targets: tuple[str, ...] = ("query", "value")
    """Linear layers with an adapter: ends of their paths (`query`, `mlp/out`); `*`: all."""

    def resolve(self) -> "FineTune":
        """The config with an absolute path, good in every working directory."""
        from_run = self.from_run and self.from_run.expanduser().resolve()
        return dataclasses.replace(self, from_run=from_run)

    def check(self) -> None:
        """Raises UserError naming the option for a value out of range."""
        check_range("finetune", self, "layer_decay", above=0, most=1)
        check_range("finetune", self, "lora_rank", least=0)
        if not self.lora_rank:
            return
        check_range("finetune", self, "lora_alpha", above=0)
        if not self.lora_targets:
            raise UserError("--finetune.lora-targets is empty; name layers, such as query value")
        if self.from_run is None:
            raise UserError(
                f"--finetune.lora-rank is {self.lora_rank} and nothing is there to adapt; say "
                "with --finetune.from-run what to start from"
            )


WAYS_OF_COMPUTING = (
    *("dropout", "dtype", "quantize", "remat", "unroll_layers", "attention_backend"),
)
"""Fields of a model's config that change no parameter, where it does not list its own."""


def like(asked: Any, source: Any) -> Any:
    """The model config of `source`, computed in the ways that `asked` says, with its labels.

    Raises UserError where the two are not of one kind.
    """
    if type(asked) is not type(source):
        raise UserError(
            f"--finetune.from-run holds a {type(source).__name__} and the experiment asks for a "
            f"{type(asked).__name__}; name a run of that kind"
        )
    own = (*WAYS_OF_COMPUTING, "num_labels")
    fields = {field.name for field in dataclasses.fields(asked)}
    return dataclasses.replace(source, **{n: getattr(asked, n) for n in own if n in fields})


def initializer(task: Any, model: Any, finetune: FineTune) -> Callable[[Key[Array, ""]], PyTree]:
    """The function from a key to the task's fresh parameters in their boxes, with adapters."""
    init = partial(task.init, model)
    if not finetune.lora_rank:
        return init
    return with_adapters(init, finetune.lora_targets, finetune.lora_rank, finetune.lora_alpha)


# ---- what is copied -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Match:
    """The paths of the parameters that two models share, and of those that they do not."""

    copied: tuple[str, ...]
    fresh: tuple[str, ...]
    """Of the new model alone."""
    unused: tuple[str, ...]
    """Of the source alone."""

    def describe(self) -> str:
        """The same for a person, in one line."""
        count = len(self.copied) + len(self.fresh)
        line = f"{len(self.copied)} of {count} parameters copied"
        for what, paths in (("fresh", self.fresh), ("not used", self.unused)):
            if paths:
                line += f"; {what}: {_listed(paths)}"
        return line


HEAD = "head/"
"""Where a model keeps what belongs to its task alone."""

Shapes = Mapping[str, tuple[int, ...]]


def match(wanted: Shapes, offered: Shapes, same_task: bool) -> Match:
    """Which parameters of the shapes `wanted` the source's, `offered`, can be.

    Adapters are none of either. A head is copied as a whole or not at all: from a run of the
    same task, where all its shapes agree. Raises UserError where anything else of one name
    differs in shape, and where nothing is shared.
    """
    head, other_head = (
        {path: shape for path, shape in shapes.items() if path.startswith(HEAD)}
        for shapes in (wanted, offered)
    )
    apart = () if same_task and head == other_head else head
    shared = [path for path in sorted(wanted) if path in offered and path not in apart]
    wrong = [path for path in shared if wanted[path] != offered[path]]
    if wrong:
        listed = _listed([f"{path} {offered[path]} there, {wanted[path]} here" for path in wrong])
        raise UserError(f"--finetune.from-run holds parameters of other shapes: {listed}")
    if not shared:
        raise UserError(
            "--finetune.from-run holds nothing that this model has: there are "
            f"{_listed(sorted(offered))}, and here {_listed(sorted(wanted))}"
        )
    return Match(
        copied=tuple(shared),
        fresh=tuple(sorted(set(wanted) - set(shared))),
        unused=tuple(sorted(set(offered) - set(shared))),
    )


def _listed(things: Collection[str], at_most: int = 6) -> str:
    shown = ", ".join(list(things)[:at_most])
    return shown if len(things) <= at_most else f"{shown} and {len(things) - at_most} more"


# ---- what moves, and how fast ---------------------------------------------------------------


def frozen_parameters(
    finetune: FineTune, paths: Collection[str], fresh: Collection[str]
) -> frozenset[str]:
    """Those of the parameters' `paths` that training leaves as they are.

    With adapters all but these and what is `fresh`; and what a pattern names, adapters excepted.
    Raises UserError for a pattern that names nothing, and where nothing would be left to train.
    """
    frozen = {path for path in paths if path.endswith(f"/{SCALE}")}
    plain = {path for path in paths if not is_adapter(path)}
    if finetune.lora_rank:
        frozen |= plain - set(fresh)
    for pattern in finetune.freeze:
        start = pattern.rstrip("/")
        named = {p for p in plain if f"{p}/".startswith(f"{start}/") or fnmatchcase(p, pattern)}
        if not named:
            parts = [path.split("/") for path in plain]
            beginnings = {"/".join(names[:n]) for names in parts for n in range(1, len(names) + 1)}
            near = get_close_matches(start, sorted(beginnings), n=1)
            tops = sorted({names[0] for names in parts})
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(tops)}"
            raise UserError(f"--finetune.freeze: the model has no parameter '{pattern}'; {hint}")
        frozen |= named
    if len(frozen) == len(paths):
        raise UserError(
            f"--finetune.freeze {' '.join(finetune.freeze)} leaves no parameter to train; freeze "
            "fewer"
        )
    return frozenset(frozen)


def with_layer_rates(
    optimizer: optax.GradientTransformation, decay: float, boxed: PyTree
) -> optax.GradientTransformation:
    """`optimizer` with every update scaled by its layer's rate (Clark et al. 2020, ELECTRA).

        layer l = 0 .. L-1 of a stack    decay^(L - l)
        embeddings                       decay^(L + 1)
        everything else                  1

    `boxed` is what `jax.eval_shape(init, key)` returns: a stack is what has "layers" for its first
    axis; embeddings are tables and what has "embedding" in its path. Weight decay is part of an
    update, so that it is scaled too. Raises UserError where no layers are stacked.
    """
    boxes = {path: box for path, box in flatten(boxed).items() if isinstance(box, Box)}
    depths = {p: box.value.shape[0] for p, box in boxes.items() if box.names[:1] == ("layers",)}
    if not depths:
        raise UserError(
            f"--finetune.layer-decay is {decay}, and the model has no stack of layers whose rates "
            "could differ; leave it out"
        )

    def scale(path: tuple, update: Array) -> Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in depths:
            rates = decay ** np.arange(depths[name], 0.0, -1.0)
            rates = rates.reshape(-1, *[1] * (update.ndim - 1))
        elif "embedding" in name or name.endswith("table"):
            rates = np.asarray(decay ** (max(depths.values()) + 1))
        else:
            return update
        return update * rates.astype(update.dtype)

    paced = optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))
    return optax.chain(optimizer, paced)
