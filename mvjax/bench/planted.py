"""The planted set: blocks that are clean, or in which one path leans on a sibling, by construction.

A block is made of a scene (a problem with its parts and their solutions), of a human solution from GSM8K or of an item
of the synthetic family. In a planted one a wording is put into one path: it mentions a sibling, or uses its number or
its symbol. In a clean one a path may get a tempting sentence, which only looks like that.

Material and wordings come in two disjoint sets: the checks are tuned on `tuning`, `held_out` says how good they are.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from mvjax.bench import planted_scenes
from mvjax.bench.planted_parts import Part, Scene, put, slots
from mvjax.curator.sources import gsm8k, synthetic
from mvjax.curator.sources.solution import Rejected
from mvjax.curator.text import reading
from mvjax.curator.text.arithmetic import NUMBER, numbers_in, parse_number
from mvjax.curator.text.transcript import Block, Path
from mvjax.data.records import Record

SETS = ("tuning", "held_out")
LETTERS = "MVQWzDHuJ"
"""Symbols that a sibling may define; the first that the block does not have is taken."""
_PHRASE = re.compile(r"\{(?:sib|me|my_|Sib|Me)")


@dataclass(frozen=True)
class Wording:
    """A sentence to put into a path."""

    kind: str
    """Check that is to find it; "clean" for one that only looks as if it leaned on a sibling."""
    place: str
    """start, inside (before the last line) or end."""
    text: str
    """`{line}` is the line that it goes before; `planted_parts.slots` lists what else may stand in braces."""
    definition: str = ""
    """What the sibling gets at its end, for a symbol."""


@dataclass(frozen=True)
class Material:
    """What one set is made of."""

    name: str
    scenes: tuple[Scene, ...]
    planted: tuple[Wording, ...]
    tempting: tuple[Wording, ...]
    fold: int
    """Which half of the GSM8K problems, and which synthetic items it takes."""


@dataclass(frozen=True)
class Case:
    """One block of the set."""

    block: Block
    known: str
    """What all paths see."""
    path: int
    """Number of the path that leans on a sibling; 0 for a clean block."""
    kind: str
    """Check that is to find it; "clean" for a clean block."""
    wording: str
    """What was put in, as a template; "" where nothing was."""
    source: str
    """Name of the scene, `gsm8k` or `synthetic`."""


@cache
def material(name: str) -> Material:
    """One of the two `SETS`."""
    text = (files("mvjax") / "assets" / f"planted_{name}.txt").read_text(encoding="utf-8")
    wordings = []
    for line in text.splitlines():
        kind, place, sentence = (field.strip() for field in line.split("|"))
        definition, arrow, use = sentence.partition(" => ")
        wordings.append(Wording(kind, place, use, definition) if arrow else Wording(kind, place, sentence))
    return Material(
        name,
        planted_scenes.TUNING if name == "tuning" else planted_scenes.HELD_OUT,
        tuple(wording for wording in wordings if wording.kind != "clean"),
        tuple(wording for wording in wordings if wording.kind == "clean"),
        SETS.index(name),
    )


def cases(name: str, count: int, seed: int) -> list[Case]:
    """`count` blocks of a set: half planted, a quarter with a tempting sentence, the rest plain.

    The wordings take turns, in an order that the seed gives.
    """
    chosen = material(name)
    rng = random.Random(f"{name} {seed}")
    made = [_planted(rng, chosen, wording) for wording in _in_turn(rng, chosen.planted, count // 2)]
    rest = count - len(made)
    made += [_clean(rng, chosen, wording) for wording in _in_turn(rng, chosen.tempting, rest // 2)]
    made += [_clean(rng, chosen, None) for _ in range(rest - rest // 2)]
    return made


def _in_turn(rng: random.Random, wordings: tuple[Wording, ...], count: int) -> list[Wording]:
    order: list[Wording] = []
    while len(order) < count:
        order.extend(rng.sample(wordings, len(wordings)))
    return order[:count]


def _planted(rng: random.Random, chosen: Material, wording: Wording) -> Case:
    """A block with this wording in one path: sources are drawn until one has a place for it."""
    while True:
        source, known, parts = _source(rng, chosen, [scene for scene in chosen.scenes if scene.planted])
        sibling, own = sorted(rng.sample(range(len(parts)), 2))
        if wording.kind != "sibling reference" and rng.random() < 0.5:
            sibling, own = own, sibling
        named = parts[own].subject or not _PHRASE.search(wording.text + wording.definition)
        foreign = wording.kind not in ("sibling number", "sibling symbol") or _is_foreign(parts, sibling, own, known)
        if named and foreign:
            break
    written = "\n".join([known, *(text for part in parts for text in (part.goal, *part.lines))])
    symbol = {"S": next(letter for letter in LETTERS if not re.search(rf"\b{letter}\b", written))}
    theirs = slots(parts, own, sibling) | {"r": parts[sibling].result} | symbol
    parts[own] = put(parts[own], wording.text, wording.place, slots(parts, sibling, own) | symbol)
    if wording.definition:
        parts[sibling] = put(parts[sibling], wording.definition, "end", theirs)
    shown = f"{wording.definition} ... {wording.text}" if wording.definition else wording.text
    return Case(_block(parts), known, own + 1, wording.kind, shown, source)


def _clean(rng: random.Random, chosen: Material, wording: Wording | None) -> Case:
    source, known, parts = _source(rng, chosen, chosen.scenes)
    if wording:
        own = rng.randrange(len(parts))
        parts[own] = put(parts[own], wording.text, wording.place, slots(parts, own, own))
    return Case(_block(parts), known, 0, "clean", wording.text if wording else "", source)


def _is_foreign(parts: list[Part], sibling: int, own: int, known: str) -> bool:
    """Whether the sibling's result is no small number, and is neither known nor in the path."""
    value = parse_number(parts[sibling].result)
    seen = "\n".join([known, *(part.goal for part in parts), *parts[own].lines])
    return value > 12 and value != 100 and value not in numbers_in(seen)


def _source(
    rng: random.Random, chosen: Material, scenes: list[Scene] | tuple[Scene, ...]
) -> tuple[str, str, list[Part]]:
    """Name, what is known, and the parts of a problem: three times in five from a scene."""
    kind = rng.choice(("scene", "scene", "scene", "gsm8k", "synthetic"))
    if kind == "scene":
        scene = rng.choice(scenes)
        while True:
            try:
                return scene.name, *scene.drawn({name: str(rng.randint(*ends)) for name, ends in scene.draws.items()})
            except ValueError:  # too many decimals
                continue
    if kind == "gsm8k":
        known, parts = rng.choice(gsm8k_problems()[chosen.fold :: 2])
    else:
        config = synthetic.SyntheticConfig(degree=(2, 4), nesting=(0, 0), seed=chosen.fold)
        ((known, parts),) = _problems(synthetic.item(config, rng.randrange(1000)))
    return kind, known, list(parts)


@cache
def gsm8k_problems() -> tuple[tuple[str, tuple[Part, ...]], ...]:
    """Blocks of the GSM8K problems that ship with mvjax, each as what is known and its parts."""
    found = []
    lines = (files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(filter(str.strip, lines)):
        problem = json.loads(line)
        try:
            found.extend(_problems(gsm8k.curate(str(number), problem["question"], problem["answer"])))
        except Rejected:
            continue
    return tuple(found)


def _problems(record: Record) -> Iterator[tuple[str, tuple[Part, ...]]]:
    """What is known and the parts, for each block without a nested one."""
    for block, before in reading.blocks(record.response):
        texts = [tuple(line for line in path.body if isinstance(line, str)) for path in block.paths]
        if all(len(text) == len(path.body) for text, path in zip(texts, block.paths, strict=True)):
            results = [NUMBER.findall("\n".join(text))[-1].replace(",", "") for text in texts]
            parts = (
                Part(path.goal, "", "", found, text)
                for path, text, found in zip(block.paths, texts, results, strict=True)
            )
            yield f"{record.messages[-1]['content']}\n{before}", tuple(parts)


def _block(parts: list[Part]) -> Block:
    found = ", ".join(part.result for part in parts)
    return Block(tuple(Path(part.goal, part.lines) for part in parts), f"The results are {found}.")
