"""What a compiled program does on one device: operations, bytes and what it sends to others.

XLA's own `cost_analysis` counts the body of a loop once. Here the program is walked as it runs:
loops as often as they turn, what is fused as one operation that reads and writes main memory once,
slices by the bytes that are cut out.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from jaxseq.planning.hlo import DEVICE, Computation, Instruction, Module, Shape, parse
from jaxseq.planning.hlo_flops import flops
from jaxseq.planning.hlo_loops import Frame, turns

COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all",
    "collective-permute", "collective-broadcast",
)  # fmt: skip

# Names of what is there already, and waits for what was started.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id",
    "replica-id", "opt-barrier", "domain", "add-dependency",
}  # fmt: skip
_FREE_CALLS = ("AllocateBuffer", "ConcatBitcast", "AsyncCollective", "AssumeGather", "Sharding")


@dataclasses.dataclass(frozen=True)
class Operation:
    """One kernel, and how often it runs."""

    name: str
    flops: int
    bytes: int
    """Read from main memory and written to it."""
    times: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between devices, and how often it happens."""

    kind: str
    bytes: int
    """What one device gives into it."""
    group: tuple[int, ...]
    """The numbers of the devices of one of its groups; empty: all. Of a collective-permute, one
    sender and receiver after another."""
    times: int
    hidden: bool
    """Whether the compiler lets other work go on meanwhile."""


@dataclasses.dataclass(frozen=True)
class Costs:
    """All that one device does in a program."""

    operations: tuple[Operation, ...]
    collectives: tuple[Collective, ...]
    unknown: tuple[str, ...]
    """Kernels whose operations nobody knows, and loops that turn nobody knows how often."""

    @property
    def flops(self) -> int:
        """Floating-point operations of matrix products."""
        return sum(operation.flops * operation.times for operation in self.operations)

    @property
    def bytes(self) -> int:
        """Bytes read from main memory and written to it."""
        return sum(operation.bytes * operation.times for operation in self.operations)


def program_costs(text: str) -> Costs:
    """The costs of one run of a compiled program, given its text (`compiled.as_text()`)."""
    walk = _Walk(parse(text))
    walk.visit(Frame(walk.module.entry), 1)
    unknown = tuple(f"{name} ({count} times)" for name, count in walk.unknown.items())
    return Costs(tuple(walk.operations), tuple(walk.collectives), unknown)


class _Walk:
    """Goes through a program as it runs, and gathers what it meets."""

    def __init__(self, module: Module):
        self.module = module
        self.operations: list[Operation] = []
        self.collectives: list[Collective] = []
        self.unknown: Counter[str] = Counter()

    def visit(self, frame: Frame, times: int) -> None:
        """The instructions of a computation that runs `times` times."""
        exchanges: dict[str, list[Collective]] = {}
        for instruction in frame.computation.instructions.values():
            self._instruction(frame, instruction, times, exchanges)
        for met in exchanges.values():
            # One that is spread over several kernels is named in each of them.
            hidden = len(met) > 1 or met[0].hidden
            self.collectives.append(dataclasses.replace(met[0], hidden=hidden))

    def _instruction(
        self,
        frame: Frame,
        instruction: Instruction,
        times: int,
        exchanges: dict[str, list[Collective]],
    ) -> None:
        computation, opcode = frame.computation, instruction.opcode
        if opcode in _FREE or opcode.endswith(("-done", "-update")):
            return
        if opcode == "while":
            found = turns(self.module, frame, instruction)
            if found is None:
                self.unknown[f"loop {instruction.name}, counted once"] += 1
            self._call(frame, instruction, times * (1 if found is None else found))
        elif opcode == "conditional":
            self._dearest_branch(frame, instruction, times)
        elif opcode in ("call", "call-start", "async-start"):
            self._call(frame, instruction, times)
        elif opcode.removesuffix("-start") in COLLECTIVES:
            self._exchange(computation, instruction, times, exchanges, fused=False)
        else:
            for inner, fused in self._fused(instruction):
                if fused.opcode.removesuffix("-start") in COLLECTIVES:
                    self._exchange(inner, fused, times, exchanges, fused=True)
            done = self._flops(computation, instruction)
            moved = self._bytes(computation, instruction)
            if done or moved:
                self.operations.append(Operation(instruction.name, done, moved, times))

    # ---- control flow -----------------------------------------------------------------------

    def _call(self, frame: Frame, instruction: Instruction, times: int) -> None:
        for name in instruction.called():
            self.visit(Frame(self.module.computations[name], frame, instruction), times)

    def _dearest_branch(self, frame: Frame, instruction: Instruction, times: int) -> None:
        names = re.findall(r"%([\w.-]+)", instruction.attribute("branch_computations") or "")
        for name in ("true_computation", "false_computation"):
            found = instruction.attribute(name)
            names += [found.lstrip("%")] if found else []
        walks = []
        for name in names:
            walk = _Walk(self.module)
            walk.visit(Frame(self.module.computations[name], frame, instruction), times)
            costs = Costs(tuple(walk.operations), (), ())
            walks.append(((costs.flops, costs.bytes), walk))
        if walks:
            _, walk = max(walks, key=lambda pair: pair[0])
            self.operations += walk.operations
            self.collectives += walk.collectives
            self.unknown += walk.unknown

    # ---- what is in a kernel ----------------------------------------------------------------

    def _fused(self, instruction: Instruction) -> list[tuple[Computation, Instruction]]:
        """All instructions inside a fusion, those of fusions in it too."""
        if instruction.opcode != "fusion":
            return []
        found = []
        for name in instruction.called():
            inner = self.module.computations[name]
            for each in inner.instructions.values():
                found.append((inner, each))
                found += self._fused(each)
        return found

    def _flops(self, computation: Computation, instruction: Instruction) -> int:
        total = 0
        for inner, each in [(computation, instruction), *self._fused(instruction)]:
            if each.opcode not in ("dot", "convolution", "custom-call"):
                continue
            shapes = [shape for operand in inner.operands(each) for shape in operand.shapes]
            found = flops(each, shapes)
            if found is None:
                self.unknown[re.sub(r"[.\d]+$", "", each.name)] += 1
            total += found or 0
        return total

    def _bytes(self, computation: Computation, instruction: Instruction) -> int:
        """What a kernel reads from main memory and writes to it."""
        if instruction.opcode == "custom-call" and any(
            target in instruction.attributes for target in _FREE_CALLS
        ):
            return 0
        operands = list(computation.operands(instruction))
        if instruction.opcode in ("copy-start", "slice-start"):
            ends = [shape for shape in instruction.shapes if shape.dims]
            moved = min((shape.num_bytes for shape in ends), default=0)
            return moved * sum(1 for shape in ends if shape.space == DEVICE)
        if instruction.opcode != "fusion":
            read = sum(
                self._part_read(instruction, place, operand)
                for place, operand in enumerate(operands)
            )
            return read + self._written(computation, instruction)
        inner = self.module.computations[instruction.called()[0]]
        results, arguments = _passed_on(instruction)
        total = 0
        for number, operand in enumerate(operands):
            if number not in arguments and number in inner.parameters:
                total += min(
                    self._read(inner, inner.parameters[number]), _in_memory(operand.shapes)
                )
        parts = list(inner.operands(inner.root)) if inner.root.opcode == "tuple" else [inner.root]
        if len(parts) != len(instruction.shapes):
            return total + _in_memory(instruction.shapes)
        for number, (part, shape) in enumerate(zip(parts, instruction.shapes, strict=True)):
            in_place = self._updates(inner, part)
            if in_place is not None or number not in results:
                size = shape.num_bytes if in_place is None else in_place
                total += size if shape.space == DEVICE else 0
        return total

    def _read(self, inner: Computation, value: Instruction) -> int:
        """Bytes of `value` that its users in a fusion look at: of what is sliced, the slices."""
        total = 0
        for user in inner.users[value.name]:
            place = user.operands.index(value.name)
            if user.opcode == "bitcast":
                total += self._read(inner, user)
            elif user.opcode == "fusion":
                nested = self.module.computations[user.called()[0]]
                total += self._read(nested, nested.parameters[place])
            elif user.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
                total += user.bytes
            elif not (user.opcode == "dynamic-update-slice" and place == 0):
                return value.bytes
        return min(total, value.bytes)

    def _updates(self, inner: Computation, part: Instruction) -> int | None:
        """Bytes that a result changes of an array that it updates in place; None for a new one."""
        if part.opcode == "bitcast":
            return self._updates(inner, next(inner.operands(part)))
        if part.opcode == "fusion" and len(part.shapes) == 1:
            nested = self.module.computations[part.called()[0]]
            return self._updates(nested, nested.root)
        if part.opcode == "dynamic-update-slice":
            return inner.instructions[part.operands[1]].bytes
        return None

    def _part_read(self, instruction: Instruction, place: int, operand: Instruction) -> int:
        stored = _in_memory(operand.shapes)
        if instruction.opcode in ("dynamic-slice", "slice", "gather") and place == 0:
            return min(instruction.bytes, stored)
        updated = instruction.opcode in ("dynamic-update-slice", "scatter") and place == 0
        return 0 if updated else stored

    def _written(self, computation: Computation, instruction: Instruction) -> int:
        if instruction.opcode in ("dynamic-update-slice", "scatter"):
            place = 1 if instruction.opcode == "dynamic-update-slice" else -1
            changed = computation.instructions[instruction.operands[place]].bytes
            return min(changed, _in_memory(instruction.shapes))
        return _in_memory(instruction.shapes)

    # ---- what is sent -----------------------------------------------------------------------

    def _exchange(
        self,
        computation: Computation,
        instruction: Instruction,
        times: int,
        exchanges: dict[str, list[Collective]],
        fused: bool,
    ) -> None:
        kind = instruction.opcode.removesuffix("-start")
        if kind == "all-reduce" and "reduce-scatter" in computation.name:
            kind = "reduce-scatter"  # a TPU's: the sum, of which each device keeps a part
        given = sum(operand.bytes for operand in computation.operands(instruction))
        started = instruction.opcode.endswith("-start") and '"is_sync":true' not in (
            instruction.attributes
        )
        started |= fused and any(
            "AsyncCollective" in each.attributes for each in computation.instructions.values()
        )
        number = instruction.attribute("channel_id") or instruction.name
        exchanges.setdefault(number, []).append(
            Collective(kind, given, _group(instruction), times, started)
        )


def _in_memory(shapes: Sequence[Shape]) -> int:
    return sum(shape.num_bytes for shape in shapes if shape.space == DEVICE)


def _passed_on(fusion: Instruction) -> tuple[set[int], set[int]]:
    """(results, operands) that are one buffer, which the fusion hands on."""
    text = re.search(r"output_to_operand_aliasing=\{(.*?\))\}", fusion.attributes)
    pairs = re.findall(r"\{(\d*)\}: \((\d+), \{[\d, ]*\}\)", text[1]) if text else []
    return {int(result or 0) for result, _ in pairs}, {int(operand) for _, operand in pairs}


def _group(instruction: Instruction) -> tuple[int, ...]:
    """The device numbers of the first group, or of all pairs of a permutation."""
    text = instruction.attributes
    pairs = re.search(r"source_target_pairs=\{(.*?)\}\}", text)
    if pairs:
        return tuple(map(int, re.findall(r"\d+", pairs[1])))
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", text)
    if listed:
        return tuple(map(int, filter(None, listed[1].split(","))))
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if counted:
        into, grid, order = (
            tuple(map(int, (x or "").split(","))) if x else () for x in counted.groups()
        )
        numbers = np.arange(int(np.prod(grid))).reshape(grid)
        numbers = numbers.transpose(order) if order else numbers
        return tuple(numbers.reshape(-1, into[-1])[0].tolist())
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", text)
    return _of_axes(named[1], named[2]) if named else ()


def _of_axes(grid: str, axes: str) -> tuple[int, ...]:
    """The first group of a grid 'a'=4,'b'=2 along some of its axes: 'a', or 'a':(1)2, a part."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", grid)}
    numbers = np.arange(int(np.prod(list(sizes.values())))).reshape(tuple(sizes.values()))
    taken = {
        name: (int(before or 1), int(size or sizes[name]))
        for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    }
    shape, chosen = [], []
    for name, size in sizes.items():
        before, part = taken.get(name, (size, 1))
        shape += [before, part, size // before // part]
        chosen += [0, slice(None), 0]
    return tuple(numbers.reshape(shape)[tuple(chosen)].reshape(-1).tolist())
