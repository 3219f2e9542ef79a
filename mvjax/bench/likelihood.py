"""How well a model's likelihoods tell dependent blocks from independent ones: on planted blocks and on real steps.

Thresholds are chosen on the tuning part of the planted set; what is reported was not used for it. Planted blocks lean
on a sibling in varied wording: by its number, symbol or label, or by mention only. Real steps are the first two of a
human solution: dependent where the second one uses the first one, independent where neither needs the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from mvjax.bench.config import LikelihoodBench
from mvjax.bench.planted import cases
from mvjax.bench.report import Report
from mvjax.curator.analysis.classifier import auc
from mvjax.curator.checks.likelihood import PathScore, score_blocks
from mvjax.curator.local_model import LocalModel
from mvjax.curator.sources.solution import Rejected, dependencies, read_steps
from mvjax.curator.text.arithmetic import numbers_in
from mvjax.curator.text.transcript import Block, Path

FALSE_ALARMS = 0.1
"""Share of the independent blocks of the tuning part that a limit may find."""
MEASURES = {"gain": "gain, nats a token", "pull": "pull, nats"}


@dataclass(frozen=True)
class Judged:
    """A block of known dependence, and what a model says."""

    kind: str
    """How it depends; "" where it does not."""
    path: int
    """The path that does, from 1; 0: not known, or none."""
    scores: Sequence[PathScore]

    def measure(self, name: str) -> float:
        """The largest value of a path."""
        return max(getattr(score, name) for score in self.scores)

    def found(self, name: str) -> int:
        """The path with the largest value, from 1."""
        return 1 + int(np.argmax([getattr(score, name) for score in self.scores]))


@dataclass(frozen=True)
class Set:
    """Blocks that are judged together."""

    name: str
    blocks: Sequence[tuple[Block, str]]
    """Each with what is known before it."""
    kinds: Sequence[str]
    """How each depends; "" where it does not."""
    paths: Sequence[int]

    def judge(self, model: LocalModel, say: Callable[[str], None]) -> list[Judged]:
        """Score all blocks."""
        scores = score_blocks(model, self.blocks, lambda line: say(f"{self.name}: {line}"))
        return [Judged(*entry) for entry in zip(self.kinds, self.paths, scores, strict=True)]


def measure(config: LikelihoodBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row per set, kind of dependence and measure."""
    from mvjax.bench.parallel import find_adapter

    say("loading the model")
    model = LocalModel.load(config.model, find_adapter(config.adapter), config.tokenizer)
    tuning = planted("tuning", config.tuning, config.seed).judge(model, say)
    limits = {name: threshold(tuning, name) for name in MEASURES}
    held_out = planted("held_out", config.blocks, config.seed).judge(model, say)
    steps = real_steps(config.steps).judge(model, say)
    for name, judged in (("planted", held_out), ("real steps", steps)):
        kinds = sorted({one.kind for one in judged} - {""})
        for kind in [None, *(kinds if len(kinds) > 1 else [])]:
            for which in MEASURES:
                report.rows.append(row(name, kind, which, judged, limits))
        report.rows.append(row(name, None, "either", judged, limits))
    panels = {
        f"{name}: {MEASURES[which]}": {
            side: [one.measure(which) for one in judged if bool(one.kind) == dependent]
            for side, dependent in (("independent", False), ("dependent", True))
        }
        for name, judged in (("planted", held_out), ("real steps", steps))
        for which in MEASURES
    }
    marks = {title: limits[which] for title in panels for which in MEASURES if title.endswith(MEASURES[which])}
    from mvjax.curator.analysis.plots import histograms

    report.notes.append(histograms(config.output / "likelihood.png", panels, marks, "blocks"))
    report.notes.append(
        f"limits: {FALSE_ALARMS:.0%} of the independent ones of {config.tuning} tuning blocks exceed them; a block is "
        "found where any path reaches the limit; right path: the one that leans has the largest value"
    )
    report.notes.append(
        "pull: on a number that is likelier after the siblings' numbers than after others; it cannot see a mere mention"
    )


def planted(name: str, count: int, seed: int) -> Set:
    """Blocks of a part of the planted set, half of them dependent."""
    made = cases(name, count, seed)
    kinds = [case.kind if case.path else "" for case in made]
    return Set(name, [(case.block, case.known) for case in made], kinds, [case.path for case in made])


def real_steps(count: int) -> Set:
    """Pairs of the first two steps of the GSM8K solutions that ship with mvjax, half of them dependent.

    The second one of a dependent pair uses a number that only the first one has, or refers to it in words.
    """
    pairs = list(_pairs())
    dependent, independent = [pair for pair in pairs if pair[2]], [pair for pair in pairs if not pair[2]]
    half = min(count // 2, len(dependent), len(independent))
    chosen = dependent[:half] + independent[:half]
    return Set("real steps", [pair[:2] for pair in chosen], [pair[2] for pair in chosen], [2] * half + [0] * half)


def _pairs() -> Iterator[tuple[Block, str, str]]:
    """Blocks, what is known, and how the second path depends on the first one."""
    lines = (files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()
    for problem in map(json.loads, filter(str.strip, lines)):
        question, solution = problem["question"], problem["answer"].rpartition("####")[0]
        try:
            steps = read_steps(solution, question)
            possible, certain = dependencies(steps, question)
        except Rejected:
            continue
        if len(steps) < 2 or (possible[1] and not certain[1]):
            continue
        first, second = (" ".join(sentence.text for sentence in step.sentences) for step in steps[:2])
        shared = numbers_in(first) & numbers_in(second) - numbers_in(question)
        kind = "" if not certain[1] else "sibling number" if shared else "sibling reference"
        paths = Path("Find the first part.", (first,)), Path("Find the second part.", (second,))
        yield Block(paths, "Both are found."), question, kind


def threshold(judged: Sequence[Judged], name: str) -> float:
    """The limit that `FALSE_ALARMS` of the independent blocks exceed."""
    return float(np.quantile([one.measure(name) for one in judged if not one.kind], 1 - FALSE_ALARMS))


def row(name: str, kind: str | None, which: str, judged: Sequence[Judged], limits: dict[str, float]) -> dict:
    """A row of the report: one measure on the blocks of one kind and all independent ones."""
    mine = [one for one in judged if kind is None or one.kind in (kind, "")]
    truth = np.array([bool(one.kind) for one in mine])
    names = list(MEASURES) if which == "either" else [which]
    found = np.array([any(one.measure(name) >= limits[name] for name in names) for one in mine])
    hits = int((found & truth).sum())
    cells = {
        "set": name,
        "dependence": kind or "all",
        "dependent": int(truth.sum()),
        "independent": int((~truth).sum()),
    }
    cells |= {"measure": which}
    if which != "either":
        cells |= {"AUC": auc([one.measure(which) for one in mine], truth.tolist()), "limit": limits[which]}
    cells |= {"precision": hits / int(found.sum()) if found.any() else "-", "recall": hits / int(truth.sum())}
    placed = [one.found(which) == one.path for one in mine if one.path] if which != "either" else []
    return cells | ({"right path": float(np.mean(placed))} if placed else {})
