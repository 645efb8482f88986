"""The text of a compiled program, read into computations and their instructions.

The text is what `compiled.as_text()` gives: optimised HLO, the same grammar on every platform
(openxla.org/xla/operation_semantics). Only what costs are counted from is kept.
"""

import dataclasses
import re
from collections.abc import Iterator
from functools import cached_property

DTYPE_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "c64": 64, "c128": 128}

DEVICE = 0
"""The memory space of a device's main memory; others are caches on the chip, or the host's."""

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.-]+) = ")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([\w.-]+)")


@dataclasses.dataclass(frozen=True)
class Shape:
    """One array: its type, its sizes, and which memory it is in."""

    dtype: str
    dims: tuple[int, ...]
    space: int = DEVICE

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.dims:
            count *= size
        return count

    @property
    def num_bytes(self) -> int:
        """How many bytes they take, without padding."""
        bits = DTYPE_BITS.get(self.dtype)
        if bits is None:  # f32, s4, f8e4m3fn: the digits behind the kind
            digits = re.match(r"[a-z]+(\d+)", self.dtype)
            bits = int(digits[1]) if digits else 0
        return self.elements * bits // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """Its results: several where it gives a tuple."""
    operands: tuple[str, ...]
    """Names of instructions of the same computation."""
    argument: str
    """What stands between the parentheses: a parameter's number, a constant's value."""
    attributes: str

    @property
    def bytes(self) -> int:
        """Bytes of the results."""
        return sum(shape.num_bytes for shape in self.shapes)

    def attribute(self, name: str) -> str | None:
        """The word, number or braces behind `name=`; None where there is none."""
        match = re.search(rf"\b{name}=(\{{[^}}]*\}}|[^,\s]+)", self.attributes)
        return match[1] if match else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """The numbers of an attribute such as dimensions={0,2}."""
        return tuple(map(int, re.findall(r"-?\d+", self.attribute(name) or "")))

    def called(self) -> tuple[str, ...]:
        """The computations that it runs, other than those that add two numbers in a reduction."""
        names = (self.attribute(name) for name in ("calls", "to_apply", "body"))
        return tuple(name.lstrip("%") for name in names if name)


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run; the last is its result."""

    name: str
    instructions: dict[str, Instruction]
    root: Instruction

    @cached_property
    def parameters(self) -> dict[int, Instruction]:
        """Its parameters by number."""
        return {
            int(instruction.argument): instruction
            for instruction in self.instructions.values()
            if instruction.opcode == "parameter"
        }

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Who reads each instruction."""
        found: dict[str, list[Instruction]] = {name: [] for name in self.instructions}
        for instruction in self.instructions.values():
            for operand in dict.fromkeys(instruction.operands):
                found[operand].append(instruction)
        return found

    def operands(self, instruction: Instruction) -> Iterator[Instruction]:
        """The instructions that one reads."""
        return (self.instructions[name] for name in instruction.operands)


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: dict[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """The computations of a program's text; ValueError where there is no entry among them."""
    computations: dict[str, Computation] = {}
    entry = None
    name, is_entry, lines = "", False, list[str]()
    for line in text.splitlines():
        header = _COMPUTATION.match(line)
        if header:
            is_entry, name, lines = bool(header[1]), header[2], []
        elif re.match(r"\}(, \w|$)", line) and name:
            computations[name] = _computation(name, lines)
            entry = computations[name] if is_entry else entry
            name = ""
        elif _INSTRUCTION.match(line):
            lines.append(line)
        elif name and lines:  # an attribute with line breaks in it
            lines[-1] += " " + line
    if entry is None:
        raise ValueError("text is not that of a compiled program: it has no ENTRY")
    return Module(computations, entry)


def _computation(name: str, lines: list[str]) -> Computation:
    instructions, root = {}, None
    for line in lines:
        match = _INSTRUCTION.match(line)
        assert match is not None  # as in `parse`
        instruction = _instruction(match[2], line[match.end() :])
        instructions[instruction.name] = instruction
        root = instruction if match[1] or root is None else root
    if root is None:
        raise ValueError(f"computation {name} has no instruction")
    known = instructions.keys()
    for key, instruction in instructions.items():
        operands = tuple(operand for operand in instruction.operands if operand in known)
        instructions[key] = dataclasses.replace(instruction, operands=operands)
    return Computation(name, instructions, instructions[root.name])


def _instruction(name: str, text: str) -> Instruction:
    """Of the text behind "name = ": TYPE OPCODE(ARGUMENT), ATTRIBUTES."""
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shapes = tuple(map(_shape, _SHAPE.finditer(text[:end])))
    opened = text.index("(", end)
    closed = _closing(text, opened)
    argument = text[opened + 1 : closed]
    return Instruction(
        name,
        text[end:opened].strip(),
        shapes,
        tuple(_NAME.findall(argument)),
        argument,
        text[closed + 1 :],
    )


def _shape(match: re.Match) -> Shape:
    space = re.search(r"S\((\d+)\)", match[3] or "")
    dims = tuple(map(int, filter(None, match[2].split(","))))
    return Shape(match[1], dims, int(space[1]) if space else DEVICE)


def _closing(text: str, opened: int) -> int:
    """Where the parenthesis at `opened` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opened):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"unclosed parenthesis in {text[:100]}")
