"""The planted set: blocks that are clean or whose one path leans on a sibling, by construction.

A block is made of a scene (a problem with its parts and their solutions), of a human solution from GSM8K or of an item of
the synthetic family. In a planted one a wording is put into one path: it mentions a sibling, or uses its number or its
symbol. In a clean one a path may get a sentence that only looks like it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from importlib.resources import files

from mvjax.curator import reading
from mvjax.curator.arithmetic import NUMBER, evaluate, numbers_in, parse_number
from mvjax.curator.sources import gsm8k, synthetic
from mvjax.curator.sources.solution import Rejected
from mvjax.curator.transcript import Block, Path
from mvjax.data.records import Record

DRAWS = 100
"""Draws before another source is taken."""
LETTERS = "MVQWzDHuJ"
"""Symbols that a sibling may define; the first that the block does not have is taken."""
LOWERED = frozenset(
    "the a an its it this that these each every for from with at in on over per so then hence there here half two all "
    "multiplying adding dividing suppose even direct distance let".split()  # noqa: SIM905
)
"""First words that lose their capital behind a prefix."""
_SLOT = re.compile(r"\{(=?)([^{}]+)\}")


@dataclass(frozen=True)
class Part:
    """One part of a problem, with its solution. Texts are templates: `{a}` is a number, `{=a*b}` a calculated one."""

    goal: str
    subject: str
    """What it is about, as a noun phrase; "" where nothing is known."""
    quantity: str
    """What is found, as a noun phrase; "" where nothing is known."""
    result: str
    """The number that is found, as a calculation."""
    lines: tuple[str, ...]
    """The path."""


@dataclass(frozen=True)
class Scene:
    """A problem with independent parts."""

    name: str
    known: str
    """What is asked."""
    draws: Mapping[str, tuple[int, int]]
    """Smallest and largest value of each number."""
    parts: tuple[Part, ...]
    planted: bool = True
    """Whether wordings may be put into it; False where its parts share results, to be used clean only."""


@dataclass(frozen=True)
class Wording:
    """A way to lean on a sibling."""

    kind: str
    """Check that is to find it."""
    text: str
    """The sentence; `{line}` is the line that it goes before. Slots are listed at `slots`."""
    place: str
    """start, inside (before the last line) or end of the path."""
    definition: str = ""
    """What the sibling gets at its end, for a symbol."""


@dataclass(frozen=True)
class Tempting:
    """A clean sentence that looks as if it leaned on a sibling."""

    text: str
    place: str
    """inside (before the last line) or end."""


@dataclass(frozen=True)
class Material:
    """One of the disjoint parts of the set."""

    name: str
    scenes: tuple[Scene, ...]
    wordings: tuple[Wording, ...]
    tempting: tuple[Tempting, ...]
    fold: int
    """Which half of the GSM8K problems and which synthetic items it takes: 0 or 1."""


@dataclass(frozen=True)
class Case:
    """One block of the set."""

    block: Block
    known: str
    path: int
    """Number of the path that leans on a sibling; 0 for a clean block."""
    kind: str
    """Check that is to find it; "" for a clean block."""
    wording: str
    """The sentence that was put in, as a template; "" where none was."""
    source: str
    """Scene, `gsm8k` or `synthetic`."""


def cases(material: Material, count: int, seed: int) -> list[Case]:
    """`count` blocks, the first half of them planted: wordings in turn, in an order that the seed gives."""
    rng = random.Random(f"{material.name} {seed}")
    made = []
    for wording in _in_turn(rng, material.wordings, count // 2):
        made.append(next(case for _ in iter(int, 1) if (case := _planted(rng, material, wording))))
    rest = count - len(made)
    for tempting in _in_turn(rng, material.tempting, rest // 2):
        made.append(_clean(rng, material, tempting))
    made.extend(_clean(rng, material, None) for _ in range(rest - rest // 2))
    return made


def _in_turn(rng: random.Random, entries: tuple, count: int) -> list:
    order: list = []
    while len(order) < count:
        order.extend(rng.sample(entries, len(entries)))
    return order[:count]


def _planted(rng: random.Random, material: Material, wording: Wording) -> Case | None:
    """A block with this wording in one path; None where the source that was drawn has no place for it."""
    source, known, parts = _source(rng, material, planted=True)
    first, second = sorted(rng.sample(range(len(parts)), 2))
    sibling, own = (first, second) if wording.kind == "sibling reference" or rng.random() < 0.5 else (second, first)
    if not parts[own].subject and re.search(r"\{(?:sib|me|my_|Sib|Me)", wording.text + wording.definition):
        return None
    written = "\n".join([known, *(text for part in parts for text in (part.goal, *part.lines))])
    if wording.kind in ("sibling number", "sibling symbol") and not _is_foreign(parts, sibling, own, known):
        return None
    symbol = next(letter for letter in LETTERS if not re.search(rf"\b{letter}\b", written))
    values = slots(parts, sibling, own) | {"S": symbol}
    parts[own] = put(parts[own], wording.text, wording.place, values)
    if wording.definition:
        parts[sibling] = put(parts[sibling], wording.definition, "end", slots(parts, own, sibling) | {
            "S": symbol, "r": parts[sibling].result
        })  # fmt: skip
    return Case(_block(parts), known, own + 1, wording.kind, wording.definition and f"{wording.definition} ... "
                f"{wording.text}" or wording.text, source)  # fmt: skip


def _clean(rng: random.Random, material: Material, tempting: Tempting | None) -> Case:
    source, known, parts = _source(rng, material, planted=False)
    if tempting:
        own = rng.randrange(len(parts))
        parts[own] = put(parts[own], tempting.text, tempting.place, slots(parts, own, own))
    return Case(_block(parts), known, 0, "", tempting.text if tempting else "", source)


def _is_foreign(parts: list[Part], sibling: int, own: int, known: str) -> bool:
    """Whether the sibling's result is no small number, and is neither known nor in the path."""
    value = parse_number(parts[sibling].result)
    seen = "\n".join([known, *(part.goal for part in parts), *parts[own].lines])
    return value > 12 and value != 100 and value not in numbers_in(seen)


def slots(parts: list[Part], sibling: int, own: int) -> dict[str, str]:
    """What a wording may mention: `r`, `own` (results of the sibling and of the path), `big` and `small` of the two;
    `sib`, `me`, `sib_quantity`, `my_quantity` (noun phrases); `j`, `ordinal`, `nth`, `roman`, `letter`, `lower`,
    `word` (the sibling's number)."""
    theirs, mine = parts[sibling], parts[own]
    small, big = sorted((theirs.result, mine.result), key=parse_number)
    return {
        "r": theirs.result, "own": mine.result, "big": big, "small": small,
        "sib": theirs.subject, "me": mine.subject, "sib_quantity": theirs.quantity, "my_quantity": mine.quantity,
        "Sib_quantity": theirs.quantity[:1].upper() + theirs.quantity[1:], "j": str(sibling + 1),
        "Me": mine.subject[:1].upper() + mine.subject[1:], "Sib": theirs.subject[:1].upper() + theirs.subject[1:], "k": str(own + 1), "lower": "abcdefgh"[min(sibling, 7)],
        "nth": ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")[min(sibling, 7)],
        "ordinal": ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")[min(sibling, 7)],
        "word": ("one", "two", "three", "four", "five", "six", "seven", "eight")[min(sibling, 7)],
        "roman": ("I", "II", "III", "IV", "V", "VI", "VII", "VIII")[min(sibling, 7)], "letter": "ABCDEFGH"[min(sibling, 7)],
    }  # fmt: skip


def put(part: Part, text: str, place: str, values: Mapping[str, str]) -> Part:
    """The part with a sentence put in."""
    lines = list(part.lines)
    if place == "start" and "{line}" in text:
        lines[0] = fill(text, values | {"line": _lowered(lines[0])})
    else:
        at = {"start": 0, "inside": max(1, len(lines) - 1), "end": len(lines)}[place]
        lines.insert(at, fill(text, values))
    return replace(part, lines=tuple(lines))


def fill(text: str, values: Mapping[str, str]) -> str:
    """A template with its slots filled; braces that are no slot stay as they are.

    Raises:
      ValueError: a calculated number has more than four decimals.
    """

    def filled(match: re.Match) -> str:
        if match[1]:
            return shown(evaluate(re.sub(r"[A-Za-z]\w*", lambda name: values[name[0]], match[2])))
        return values.get(match[2], match[0])

    return _SLOT.sub(filled, text)


def shown(value: Fraction) -> str:
    """A number in digits.

    Raises:
      ValueError: it has more than four decimals.
    """
    if 10**4 % value.denominator:
        raise ValueError(f"{value} has too many decimals")
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _source(rng: random.Random, material: Material, planted: bool) -> tuple[str, str, list[Part]]:
    """Name, what is known, and the parts of a problem: three times in five from a scene."""
    kind = rng.choice(("scene", "scene", "scene", "gsm8k", "synthetic"))
    if kind == "scene":
        return _drawn(rng, rng.choice([scene for scene in material.scenes if scene.planted or not planted]))
    if kind == "gsm8k":
        known, parts = rng.choice(gsm8k_problems()[material.fold :: 2])
    else:
        config = synthetic.SyntheticConfig(degree=(2, 4), nesting=(0, 0), seed=material.fold)
        ((known, parts),) = _of_record(synthetic.item(config, rng.randrange(1000)))
    return kind, known, list(parts)


def _drawn(rng: random.Random, scene: Scene) -> tuple[str, str, list[Part]]:
    for _ in range(DRAWS):
        values = {name: str(rng.randint(*bounds)) for name, bounds in scene.draws.items()}
        try:
            parts = [
                Part(
                    fill(part.goal, values), fill(part.subject, values), fill(part.quantity, values),
                    fill(f"{{={part.result}}}", values), tuple(fill(line, values) for line in part.lines),
                )
                for part in scene.parts
            ]  # fmt: skip
            return scene.name, fill(scene.known, values), parts
        except ValueError:
            continue
    raise ValueError(f"scene {scene.name}: its numbers have too many decimals")


@cache
def gsm8k_problems() -> tuple[tuple[str, tuple[Part, ...]], ...]:
    """Blocks of the GSM8K problems that ship with mvjax."""
    found = []
    lines = (files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(filter(str.strip, lines)):
        problem = json.loads(line)
        try:
            found.extend(_of_record(gsm8k.curate(str(number), problem["question"], problem["answer"])))
        except Rejected:
            continue
    return tuple(found)


def _of_record(record: Record) -> Iterator[tuple[str, tuple[Part, ...]]]:
    """What is known and the parts of each block without a nested one."""
    for block, before in reading.blocks(record.response):
        if all(isinstance(line, str) for path in block.paths for line in path.body):
            parts = []
            for path in block.paths:
                result = NUMBER.findall("\n".join(path.body))[-1]
                parts.append(Part(path.goal, "", "", result.replace(",", ""), path.body))
            yield f"{record.messages[-1]['content']}\n{before}", tuple(parts)


def _lowered(line: str) -> str:
    first = line.split(" ", 1)[0]
    return line[:1].lower() + line[1:] if first.lower() in LOWERED else line


def _block(parts: list[Part]) -> Block:
    found = ", ".join(part.result for part in parts)
    return Block(tuple(Path(part.goal, part.lines) for part in parts), f"The results are {found}.")
