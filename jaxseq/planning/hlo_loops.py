"""How often a loop of a compiled program turns: at most, where that depends on what it computes.

Compilers say it of some loops. Of others it is read off their condition, `i < end`, whose numbers
are followed through the program as far as they are constants, sums of them, or held between them.
Attention in chunks that leaves out what a causal mask hides is such a loop: it counts whole.
"""

import dataclasses
import re

from jaxseq.planning.hlo import Computation, Instruction, Module


@dataclasses.dataclass(frozen=True)
class Frame:
    """A computation, and who runs it with what; the entry is run by nobody."""

    computation: Computation
    caller: "Frame | None" = None
    call: Instruction | None = None


def turns(module: Module, frame: Frame, loop: Instruction) -> int | None:
    """How often `loop`, an instruction of the frame's computation, turns; None: nobody knows."""
    said = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if said:
        return int(said[1])
    condition = module.computations[(loop.attribute("condition") or "").lstrip("%")]
    values = _Values(module)
    compared = values.compared(Frame(condition, frame, loop), condition.root)
    if compared is None:
        return None
    (where, counter), (there, end) = compared
    first, last = values.bound(where, counter, False), values.bound(there, end, True)
    step = values.step(where, counter, module.computations[loop.called()[0]])
    if first is None or last is None or step is None:
        return None
    return max(-((first - last) // step), 0)


class _Values:
    """Follows whole numbers through a program."""

    def __init__(self, module: Module):
        self.module = module
        self.followed: set[tuple[str, int]] = set()
        """Elements of loops' states that are being followed: those that depend on themselves."""

    def compared(
        self, frame: Frame, root: Instruction
    ) -> tuple[tuple[Frame, Instruction], tuple[Frame, Instruction]] | None:
        """The counter and its end, in the comparison that a condition gives."""
        if root.opcode == "fusion":
            inner = self.module.computations[root.called()[0]]
            return self.compared(Frame(inner, frame, root), inner.root)
        if root.opcode != "compare":
            return None
        first, second = ((frame, operand) for operand in frame.computation.operands(root))
        return (second, first) if "direction=GT" in root.attributes else (first, second)

    def step(self, frame: Frame, counter: Instruction, body: Computation) -> int | None:
        """By how much a loop's counter, as its condition names it, goes up in a turn."""
        if counter.opcode == "parameter" and frame.caller is not None and frame.call is not None:
            outside = frame.caller.computation.instructions
            given = outside[frame.call.operands[int(counter.argument)]]
            return self.step(frame.caller, given, body)
        if counter.opcode != "get-tuple-element" or body.root.opcode != "tuple":
            return None
        number = counter.numbers("index")[0]
        after = body.instructions[body.root.operands[number]]
        step = self._above(Frame(body), after, number)
        return step if step is not None and step > 0 else None

    def _above(self, frame: Frame, value: Instruction, number: int) -> int | None:
        """How far a value lies above element `number` of what its loop's body was given."""
        operands = list(frame.computation.operands(value))
        match value.opcode:
            case "get-tuple-element":
                same = operands[0].opcode == "parameter" and value.numbers("index") == (number,)
                return 0 if same else None
            case "bitcast" | "copy":
                return self._above(frame, operands[0], number)
            case "parameter" if frame.caller is not None and frame.call is not None:
                outside = frame.caller.computation.instructions
                given = outside[frame.call.operands[int(value.argument)]]
                return self._above(frame.caller, given, number)
            case "fusion" if len(value.shapes) == 1:
                inner = self.module.computations[value.called()[0]]
                return self._above(Frame(inner, frame, value), inner.root, number)
            case "add":
                below, added = self._above(frame, operands[0], number), operands[1]
                more = self.bound(frame, added, True)
                return None if below is None or more is None else below + more
        return None

    def bound(self, frame: Frame, at: Instruction, upper: bool) -> int | None:
        """What a number is at most, or at least; None where that is not to be seen."""
        operands = list(frame.computation.operands(at))

        def found(number: Instruction) -> int | None:
            return self.bound(frame, number, upper)

        match at.opcode:
            case "constant":
                return int(at.argument) if re.fullmatch(r"-?\d+", at.argument) else None
            case "bitcast" | "copy" | "convert" | "copy-start" | "copy-done":
                return found(operands[0])
            case "broadcast" | "reshape" | "slice" | "dynamic-slice":
                return found(operands[0])  # an array is at most what its largest number is
            case "dynamic-update-slice":
                return found(operands[1])  # as one is filled row by row
            case "minimum" | "maximum":
                known = [value for value in map(found, operands) if value is not None]
                narrows = (at.opcode == "minimum") == upper  # so that one of the two is enough
                if not known or (len(known) < 2 and not narrows):
                    return None
                return min(known) if at.opcode == "minimum" else max(known)
            case "clamp":
                return found(operands[2 if upper else 0])
            case "add":
                parts = list(map(found, operands))
                return None if None in parts else sum(part for part in parts if part is not None)
            case "parameter" if frame.call is not None and frame.call.opcode == "fusion":
                assert frame.caller is not None  # who made the call
                given = frame.call.operands[int(at.argument)]
                outside = frame.caller.computation.instructions[given]
                return self.bound(frame.caller, outside, upper)
            case "fusion" if len(at.shapes) == 1:
                inner = self.module.computations[at.called()[0]]
                return self.bound(Frame(inner, frame, at), inner.root, upper)
            case "get-tuple-element":
                return self._element(frame, operands[0], at.numbers("index")[0], upper)
        return None

    def _element(self, frame: Frame, of: Instruction, number: int, upper: bool) -> int | None:
        """The bound of one of a tuple's elements."""
        if of.opcode == "tuple":
            element = frame.computation.instructions[of.operands[number]]
            return self.bound(frame, element, upper)
        if of.opcode == "fusion":
            inner = self.module.computations[of.called()[0]]
            if inner.root.opcode != "tuple":
                return None
            return self._element(Frame(inner, frame, of), inner.root, number, upper)
        if of.opcode == "while":
            body = self.module.computations[of.called()[0]]
            if body.root.opcode != "tuple":
                return None
            if self._handed_on(body, number):
                start = frame.computation.instructions[of.operands[0]]
                return self._element(frame, start, number, upper)
            last = body.instructions[body.root.operands[number]]
            return self.bound(Frame(body, frame, of), last, upper)
        if of.opcode != "parameter" or frame.call is None or frame.call.opcode != "while":
            return None
        assert frame.caller is not None  # who runs the loop
        body = self.module.computations[frame.call.called()[0]]
        start = frame.caller.computation.instructions[frame.call.operands[0]]
        before = self._element(frame.caller, start, number, upper)
        # Of a counter it is asked, in the loop's condition, where it begins; all else is known only
        # where no turn makes something else of it.
        begins = frame.computation.name != body.name and not upper
        if begins or before is None or self._handed_on(body, number):
            return before
        if (body.name, number) in self.followed or body.root.opcode != "tuple":
            return None
        self.followed.add((body.name, number))
        last = body.instructions[body.root.operands[number]]
        after = self.bound(Frame(body, frame.caller, frame.call), last, upper)
        self.followed.remove((body.name, number))
        if after is None:
            return None
        return max(before, after) if upper else min(before, after)

    def _handed_on(self, body: Computation, number: int) -> bool:
        """Whether a loop's body gives an element of its state back as it is."""
        if body.root.opcode != "tuple":
            return False
        given = body.instructions[body.root.operands[number]]
        while given.opcode in ("copy", "bitcast"):
            given = next(body.operands(given))
        if given.opcode != "get-tuple-element":
            return False
        place, of = given.numbers("index")[0], next(body.operands(given))
        if of.opcode == "while":  # through a loop inside, which hands it on in its turn
            inner = self.module.computations[of.called()[0]]
            start = body.instructions[of.operands[0]]
            if start.opcode != "tuple" or not self._handed_on(inner, place):
                return False
            given = body.instructions[start.operands[place]]
            if given.opcode != "get-tuple-element":
                return False
            place, of = given.numbers("index")[0], next(body.operands(given))
        return of.opcode == "parameter" and place == number
