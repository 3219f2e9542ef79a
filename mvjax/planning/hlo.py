"""Reads compiled programs: the instructions of an optimised HLO module, and how often each computation runs."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$")
CALLED = re.compile(r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")
KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
OP_NAME = re.compile(r'op_name="([^"]*)"')
TYPED = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([^{}]*)\})?")
BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "s2": 2, "u2": 2}


class Buffer(NamedTuple):
    """A part of an instruction's result."""

    kind: str
    """Element type: bf16, f32, s32."""
    shape: tuple[int, ...]
    on_chip: bool
    """In a memory other than the device's large one."""

    @property
    def nbytes(self) -> int:
        """Bytes of its elements, padding left out."""
        bits = BITS.get(self.kind) or int(re.sub(r"\D.*", "", self.kind.lstrip("fsuc")) or 0)
        return math.prod(self.shape) * bits * (2 if self.kind.startswith("c") else 1) // 8


@dataclass(frozen=True)
class Instruction:
    """One line of a program."""

    name: str
    shape: str
    opcode: str
    rest: str
    root: bool

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls."""
        names = CALLED.findall(self.rest)
        for group in BRANCHES.findall(self.rest):
            names += [name.strip().lstrip("%") for name in group.split(",")]
        return names

    @cached_property
    def operands(self) -> tuple[str, ...]:
        """Names of its operands."""
        return tuple(re.findall(r"%([\w.\-]+)", self.rest[: closing(self.rest, 1)]))

    @cached_property
    def buffers(self) -> tuple[Buffer, ...]:
        """Parts of its result, in order."""
        return tuple(
            Buffer(kind, tuple(int(size) for size in sizes.split(",") if size), bool(re.search(r"S\(\d", layout)))
            for kind, sizes, layout in TYPED.findall(self.shape)
        )

    @property
    def nbytes(self) -> int:
        """Bytes of its result."""
        return sum(buffer.nbytes for buffer in self.buffers)

    def attribute(self, name: str) -> str | None:
        """What follows `name=` up to the next comma outside of brackets."""
        found = re.search(rf"[ ,]{name}=", self.rest)
        if found is None:
            return None
        text = self.rest[found.end() :]
        return text[: closing(text, 0, ",")]

    def stated(self, name: str) -> str:
        """An attribute that every instruction of its kind has, without the sign of a name; ValueError without it."""
        found = self.attribute(name)
        if found is None:
            raise ValueError(f"{self.opcode} {self.name} does not state its {name}")
        return found.lstrip("%")

    @property
    def op_name(self) -> str:
        """Where it comes from: the path of JAX's operation."""
        found = OP_NAME.search(self.rest)
        return found[1] if found else ""


def closing(text: str, depth: int, stop: str = "") -> int:
    """Where `depth` brackets that are open at the beginning have been closed, or one more; or, at depth 0, `stop`."""
    for place, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth < 0 or (not depth and (letter in ")}]" if not stop else letter == stop)):
            return place
    return len(text)


def parse(program: str) -> dict[str, list[Instruction]]:
    """The instructions of every computation of an optimised HLO module."""
    return _parse(program)[0]


def _parse(program: str) -> tuple[dict[str, list[Instruction]], str]:
    computations: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in program.splitlines():
        line = re.sub(r"/\*.*?\*/", "", line)
        if match := COMPUTATION.match(line):
            current = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := INSTRUCTION.match(line)):
            current.append(Instruction(match[2], match[3], match[4], match[5], bool(match[1])))
    return computations, entry


class Place(NamedTuple):
    """An instruction and the computation that it is in."""

    computation: str
    instruction: Instruction


class Scalar(NamedTuple):
    """A whole number, or an element of the computation's tuple parameter plus one."""

    element: int | None
    offset: int


class Program:
    """An optimised HLO module that can be asked how often its parts run."""

    def __init__(self, text: str):
        self.computations, self.entry = _parse(text)
        self._index = {name: {i.name: i for i in body} for name, body in self.computations.items()}
        self._callers: dict[str, list[Place]] = defaultdict(list)
        for name, body in self.computations.items():
            for instruction in body:
                for called in instruction.called:
                    self._callers[called].append(Place(name, instruction))

    @cached_property
    def fused(self) -> frozenset[str]:
        """Computations that are the insides of fusions."""
        bodies = self.computations.values()
        return frozenset(name for body in bodies for i in body if i.opcode == "fusion" for name in i.called)

    def find(self, computation: str, name: str) -> Instruction:
        """An instruction by name."""
        return self._index[computation][name]

    def operand(self, place: Place, number: int) -> Instruction:
        """An operand of an instruction."""
        return self.find(place.computation, place.instruction.operands[number])

    def root(self, computation: str) -> Instruction:
        """The instruction that gives a computation's result."""
        return next(i for i in self.computations[computation] if i.root)

    def loops(self) -> Iterator[Place]:
        """All `while` instructions."""
        for name, body in self.computations.items():
            yield from (Place(name, i) for i in body if i.opcode == "while")

    def times(self, unknown: Mapping[str, float] | None = None) -> dict[str, float]:
        """How often each computation runs in one run of the program; of a branch, as if it were taken always.

        unknown: times of the body of loops whose number of rounds is decided on the device, by the loop's name; 1
            where there is none.
        """
        done: dict[str, float] = {}

        def of(name: str) -> float:
            if name not in done:
                done[name] = 0.0
                for caller, instruction in self._callers[name]:
                    rounds = 1.0
                    if instruction.opcode == "while":
                        known = self.rounds(Place(caller, instruction))
                        rounds = (unknown or {}).get(instruction.name, 1.0) if known is None else known
                    done[name] += of(caller) * rounds
            return done[name]

        done[self.entry] = 1.0
        return {name: of(name) for name in self.computations}

    def rounds(self, loop: Place) -> int | None:
        """How often the body of a loop runs; None where that is not known before the program runs."""
        if known := KNOWN_TRIPS.search(loop.instruction.rest):
            return int(known[1])
        condition, body = (loop.instruction.stated(name) for name in ("condition", "body"))
        test = self.root(condition)
        bindings, where = None, condition
        if test.opcode == "fusion":
            bindings, where = Place(condition, test), test.called[0]
            test = self.root(where)
        if test.opcode != "compare" or test.attribute("direction") != "LT":
            return None
        counter, limit = (self._scalar(where, name, bindings) for name in test.operands)
        if counter is None or counter.element is None or limit is None:
            return None
        end = limit.offset
        if limit.element is not None:
            end = self._initial(loop, limit.element)
        start = self._initial(loop, counter.element)
        step = self._scalar(body, self.root(body).operands[counter.element])
        if end is None or start is None or step is None or step.element != counter.element or step.offset <= 0:
            return None
        return max(0, -(-(end - start - counter.offset) // step.offset))

    def _initial(self, loop: Place, element: int) -> int | None:
        """The number that an element of a loop's tuple starts with."""
        start = self.operand(loop, 0)
        if start.opcode != "tuple":
            return None
        value = self._scalar(loop.computation, start.operands[element])
        if value is None:
            return None
        if value.element is None:
            return value.offset
        # Handed through by the loop around this one.
        for outer in self._callers[loop.computation]:
            if outer.instruction.opcode == "while":
                kept = self._scalar(loop.computation, self.root(loop.computation).operands[value.element])
                first = self._initial(outer, value.element)
                if kept == Scalar(value.element, 0) and first is not None:
                    return first + value.offset
        return None

    def _scalar(self, computation: str, name: str, bindings: Place | None = None) -> Scalar | None:
        """What a scalar is, as far as that follows from the text.

        bindings: the fusion whose computation this is: its parameters are that one's operands.
        """
        instruction = self._index[computation].get(name)
        if instruction is None:
            return None
        if instruction.opcode == "constant":
            number = re.match(r"(-?\d+)\)", instruction.rest)
            return Scalar(None, int(number[1])) if number else None
        if instruction.opcode == "parameter" and bindings is not None:
            number = int(instruction.rest.split(")")[0])
            return self._scalar(bindings.computation, bindings.instruction.operands[number])
        if instruction.opcode == "get-tuple-element":
            source = self.find(computation, instruction.operands[0])
            index = int(instruction.stated("index"))
            if source.opcode == "parameter":
                return Scalar(index, 0)
            if source.opcode == "tuple":
                return self._scalar(computation, source.operands[index], bindings)
            return None
        if instruction.opcode in ("copy", "bitcast", "convert", "copy-start", "copy-done", "reshape"):
            return self._scalar(computation, instruction.operands[0], bindings)
        if instruction.opcode == "add":
            found = [self._scalar(computation, operand, bindings) for operand in instruction.operands]
            terms = [term for term in found if term is not None]
            if len(terms) < len(found) or all(term.element is not None for term in terms):
                return None
            element = next((term.element for term in terms if term.element is not None), None)
            return Scalar(element, sum(term.offset for term in terms))
        if instruction.opcode == "fusion":
            inside = instruction.called[0]
            return self._scalar(inside, self.root(inside).name, Place(computation, instruction))
        return None
