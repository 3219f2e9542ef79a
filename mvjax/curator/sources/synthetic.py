"""A synthetic family with dials: parts that are short chains of sums, independent of one another.

Each item lists parts ("Part 2: start at 5, add 3, subtract 2"); a part may be the sum of sub-parts. What a
transcript must contain is known in full, so every item can be graded, and so is its ideal degree of parallelism.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from mvjax.curator.text.transcript import Block, Body, Path, multiverse
from mvjax.data.records import Record
from mvjax.errors import UserError

LARGEST = 20
"""No running result of a chain leaves 0..20: sums that a small model can learn by heart."""
LARGEST_SUM = 30
"""No sum of sub-parts is larger."""
DRAWS = 20
"""Draws of a part before one with another part's result is taken."""
TEST_SHARE = 5
"""One chain in five belongs to the test split."""


@dataclass(frozen=True)
class SyntheticConfig:
    """The dials. Ranges are (smallest, largest), drawn evenly for every item."""

    degree: tuple[int, int] = (2, 8)
    """Parts of an item, 1 to 16. An item of degree 1 has no block."""
    length: tuple[int, int] = (2, 4)
    """Steps (additions and subtractions) of a part, 1 to 32."""
    nesting: tuple[int, int] = (0, 1)
    """Levels of blocks inside the outer one, 0 to 2."""
    uneven: float = 0.5
    """Share of items whose parts differ in length; the other items draw one length for all parts."""
    sub_parts: tuple[int, int] = (2, 3)
    """Sub-parts of a part that has any."""
    seed: int = 0
    """Equal seeds give equal items; item i does not depend on how many are made."""
    split: str = "train"
    """`train` or `test`: no chain, and so no item, is in both."""

    def __post_init__(self) -> None:
        for name, low, high in (("degree", 1, 16), ("length", 1, 32), ("nesting", 0, 2), ("sub_parts", 2, 4)):
            first, last = getattr(self, name)
            if not low <= first <= last <= high:
                raise UserError(
                    f"--{name.replace('_', '-')} {first}-{last}: must lie within {low}-{high}, smaller first"
                )
        if not 0 <= self.uneven <= 1:
            raise UserError(f"--uneven {self.uneven}: must be a share from 0 to 1")
        if self.split not in ("train", "test"):
            raise UserError(f"--split {self.split}: must be train or test")


@dataclass(frozen=True)
class Wording:
    """How an item is put into words."""

    noun: str
    """What a part is called."""
    plural: str
    """The same for several."""
    opening: str
    """First sentence of the prompt; {n} is the number of parts with its noun."""
    start: str
    """How a chain starts."""
    plus: str
    """An addition."""
    minus: str
    """A subtraction."""
    question: str
    """Last sentence of the prompt."""
    verb: str
    """Between a part and its result."""


WORDINGS = (
    Wording("part", "parts", "There {are} {n}.", "start at {}", "add {}", "subtract {}", "What is each part?", "is"),
    Wording(
        "box", "boxes", "{n} {are} on a shelf.", "holds {} coins", "gets {} more", "gives away {}",
        "How many coins are in each box?", "has",
    ),
    Wording(
        "team", "teams", "{n} {are} playing.", "begins with {} points", "wins {}", "loses {}",
        "How many points does each team have?", "has",
    ),
    Wording("number", "numbers", "Work out {n}.", "take {}", "plus {}", "minus {}", "Find each number.", "is"),
)  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """A part without sub-parts: a start and signed steps."""

    start: int
    steps: tuple[int, ...]

    @property
    def value(self) -> int:
        """The result."""
        return self.start + sum(self.steps)

    @property
    def work(self) -> int:
        """Steps in all."""
        return len(self.steps)

    @property
    def span(self) -> int:
        """Steps on the longest chain of steps that need one another."""
        return len(self.steps)


@dataclass(frozen=True)
class Group:
    """A part that is the sum of its sub-parts."""

    parts: tuple[Chain | Group, ...]

    @property
    def value(self) -> int:
        """The result."""
        return sum(part.value for part in self.parts)

    @property
    def work(self) -> int:
        """Steps in all, those of the sum included."""
        return sum(part.work for part in self.parts) + len(self.parts) - 1

    @property
    def span(self) -> int:
        """Steps on the longest chain: the longest sub-part, then the sum."""
        return max(part.span for part in self.parts) + len(self.parts) - 1


def generate(config: SyntheticConfig, count: int) -> Iterator[Record]:
    """The first `count` items of the family with these dials."""
    return (item(config, index) for index in range(count))


def item(config: SyntheticConfig, index: int) -> Record:
    """Item `index`: a pure function of the config's dials, seed and split."""
    rng = random.Random(f"{config.seed}/{config.split}/{index}")
    degree = rng.randint(*config.degree)
    nesting = rng.randint(*config.nesting) if degree > 1 else 0
    uneven = rng.random() < config.uneven
    common = rng.randint(*config.length)
    wording = rng.choice(WORDINGS)

    def length() -> int:
        return rng.randint(*config.length) if uneven else common

    def part(levels: int) -> Chain | Group:
        if levels == 0:
            return draw_chain(rng, length(), LARGEST, config.split)
        return draw_group(rng, levels, config, length)

    # One part reaches the full depth; one in eight of the others is as deep, the rest is flat.
    deepest = rng.randrange(degree)
    parts: tuple[Chain | Group, ...] = ()
    for k in range(degree):
        levels = nesting if k == deepest or rng.random() < 0.125 else 0
        # Parts with different results, where a few draws find them: a mixed-up answer then shows.
        drawn = part(levels)
        for _ in range(DRAWS - 1):
            if drawn.value not in {earlier.value for earlier in parts}:
                break
            drawn = part(levels)
        parts = (*parts, drawn)
    answer = ", ".join(str(part.value) for part in parts)
    last_line = f"The answer is {answer}."
    opening = f"There {'are' if degree > 1 else 'is'} {counted(degree, wording)}."
    if degree > 1:
        body: Body = (opening, block(parts, "", wording), last_line)
    else:
        body = (opening, *flat(parts[0], "1", wording), last_line)
    sequential = [
        opening,
        *(line for k, part in enumerate(parts, 1) for line in flat(part, str(k), wording)),
        last_line,
    ]
    return Record(
        id=f"synthetic-{config.split}-{config.seed}-{index}",
        messages=({"role": "user", "content": prompt(parts, wording)},),
        response=multiverse(body),
        autoregressive="\n".join(sequential),
        answer=answer,
        source="synthetic",
        meta={
            "degree": degree,
            "nesting": nesting,
            "lengths": [part.work for part in parts],
            "uneven": len({part.work for part in parts}) > 1,
            "parallel": degree > 1,
            "ideal_parallel": round(ideal_parallel(parts), 4),
            "kind": "list",
        },
    )


def ideal_parallel(parts: tuple[Chain | Group, ...]) -> float:
    """Ideal # parallel: steps in all / steps on the longest chain, as if splitting and merging were free.

    A step is one addition or subtraction (summing k sub-parts takes k - 1, one after the other). It is n for n even
    parts without sub-parts. A transcript's own # parallel (tokens / critical path) is lower: it counts the Map and
    the Reduce too.
    """
    return sum(part.work for part in parts) / max(part.span for part in parts)


def in_split(chain: Chain, split: str) -> bool:
    """Whether a chain belongs to a split: decided by a checksum of the chain, so the splits share none."""
    key = f"{chain.start}:{','.join(map(str, chain.steps))}"
    return (zlib.crc32(key.encode()) % TEST_SHARE == 0) == (split == "test")


def draw_chain(rng: random.Random, length: int, largest: int, split: str) -> Chain:
    """A chain of the split whose running results stay within 0..20 and whose result is at most `largest`."""
    while True:
        start = value = rng.randint(2, 9)
        steps = []
        for _ in range(length):
            choices = [step for step in range(-9, 10) if step and 0 <= value + step <= LARGEST]
            steps.append(rng.choice(choices))
            value += steps[-1]
        chain = Chain(start, tuple(steps))
        if value <= largest and in_split(chain, split):
            return chain


def draw_group(rng: random.Random, levels: int, config: SyntheticConfig, length) -> Group:
    """A part with `levels` levels of sub-parts under it, its sum at most LARGEST_SUM."""
    while True:
        count = rng.randint(*config.sub_parts)
        deepest = rng.randrange(count)
        parts = tuple(
            draw_group(rng, levels - 1, config, length)
            if levels > 1 and k == deepest
            else draw_chain(rng, length(), LARGEST // 2, config.split)
            for k in range(count)
        )
        group = Group(parts)
        if group.value <= LARGEST_SUM:
            return group


def counted(count: int, wording: Wording) -> str:
    """Such as "3 boxes"."""
    return f"{count} {wording.noun if count == 1 else wording.plural}"


def prompt(parts: tuple[Chain | Group, ...], wording: Wording) -> str:
    """The question: how many parts there are, each of them, and what to find."""
    opening = wording.opening.format(n=counted(len(parts), wording), are="are" if len(parts) > 1 else "is")
    described = [line for k, part in enumerate(parts, 1) for line in described_part(part, str(k), wording)]
    return " ".join([opening, *described, wording.question])


def described_part(part: Chain | Group, label: str, wording: Wording) -> Iterator[str]:
    """The sentences of the prompt that give a part and its sub-parts."""
    name = f"{wording.noun.capitalize()} {label}"
    if isinstance(part, Chain):
        steps = [wording.start.format(part.start)]
        steps += [(wording.plus if step > 0 else wording.minus).format(abs(step)) for step in part.steps]
        yield f"{name}: {', '.join(steps)}."
        return
    labels = [f"{label}.{k}" for k in range(1, len(part.parts) + 1)]
    yield f"{name} is the sum of {wording.plural} {', '.join(labels[:-1])} and {labels[-1]}."
    for sub_label, sub_part in zip(labels, part.parts, strict=True):
        yield from described_part(sub_part, sub_label, wording)


def block(parts: tuple[Chain | Group, ...], label: str, wording: Wording) -> Block:
    """The block that works the parts out side by side."""
    prefix = f"{label}." if label else ""
    labels = [f"{prefix}{k}" for k in range(1, len(parts) + 1)]
    paths = tuple(
        Path(f"Find {wording.noun} {k}.", lines(part, k, wording)) for k, part in zip(labels, parts, strict=True)
    )
    results = ", ".join(
        f"{wording.noun} {k} {wording.verb} {part.value}" for k, part in zip(labels, parts, strict=True)
    )
    return Block(paths, results[0].upper() + results[1:] + ".")


def lines(part: Chain | Group, label: str, wording: Wording) -> Body:
    """The text of a part's path."""
    if isinstance(part, Chain):
        return (worked(part, label, wording),)
    return (announced(part, label, wording), block(part.parts, label, wording), solved(part, label, wording))


def flat(part: Chain | Group, label: str, wording: Wording) -> Iterator[str]:
    """The same sentences one after the other, each part under its label."""
    if isinstance(part, Chain):
        yield f"{label}: {worked(part, label, wording)}"
        return
    yield f"{label}: {announced(part, label, wording)}"
    for k, sub_part in enumerate(part.parts, 1):
        yield from flat(sub_part, f"{label}.{k}", wording)
    yield solved(part, label, wording)


def worked(part: Chain, label: str, wording: Wording) -> str:
    """What the prompt says of a part, word for word, then its calculation: what a path needs then is in it."""
    return " ".join([*described_part(part, label, wording), solved(part, label, wording)])


def announced(part: Group, label: str, wording: Wording) -> str:
    """The sentence that opens a part with sub-parts."""
    return f"{wording.noun.capitalize()} {label} is the sum of {counted(len(part.parts), wording)}."


def solved(part: Chain | Group, label: str, wording: Wording) -> str:
    """The calculation of a part, rewritten step by step, such as "5+3-2=8-2=6. Part 2 is 6."."""
    if isinstance(part, Chain):
        value, steps = part.start, part.steps
    else:
        value, steps = part.parts[0].value, tuple(sub_part.value for sub_part in part.parts[1:])
    terms = [f"{'+' if step >= 0 else '-'}{abs(step)}" for step in steps]
    forms = [f"{value}{''.join(terms)}"]
    for k, step in enumerate(steps, 1):
        value += step
        forms.append(f"{value}{''.join(terms[k:])}")
    return f"{'='.join(forms)}. {wording.noun.capitalize()} {label} {wording.verb} {value}."
