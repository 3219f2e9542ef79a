"""Do a model's hidden states predict that what follows is parallel?

At each point of a record where a line ends (`branch_points`) the states behind some layers are taken, and a logistic
regression is to tell the points behind which a block begins from those behind which text goes on. It is judged on
problems that it has not seen, beside three kinds of chance: the more frequent class, labels that were shuffled, and a
classifier that sees only what the point's own token and the one before it are and where they are.

What it shows: that the states carry something from which the labels can be read, over and above the place. What it
does not show: that the model plans to split its work, or would act on it. A state at the end of the prompt holds what
kind of question was asked, and that alone may tell; and the labels are the curator's, with its errors. Points are ends
of lines only, so that the token itself says next to nothing; layer 0 (the embedding of the token) is the check of that.
Points at the start of a response and points between its lines are kept apart, for they are easily distinguished.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from mvjax.curator.analysis.branch_points import read
from mvjax.curator.analysis.classifier import CrossValidation, Verdict, fold_of
from mvjax.curator.local_model import LocalModel, Sheet
from mvjax.data.encode import Form
from mvjax.data.records import Record

KINDS = ("start", "line")
FEWEST = 20
"""Points of either class that a probe needs."""
FREQUENT = 32
"""Tokens that the baseline knows by name; the others are one to it."""
SHUFFLES = 10
"""Times that labels are shuffled."""


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one form and kind."""

    form: Form
    kind: str
    states: Float[np.ndarray, "N L D"]
    """Hidden states behind each layer asked for."""
    parallel: Bool[np.ndarray, "N"]
    """Whether a block follows."""
    fold: Int[np.ndarray, "N"]
    """Points of the same problem share a fold."""
    surface: Float[np.ndarray, "N F"]
    """What is plain to see: the token, the token before it, the position."""

    @property
    def enough(self) -> bool:
        """Whether both classes have points enough, in every training set too."""
        folds = np.unique(self.fold)
        counts = [np.bincount(self.parallel, minlength=2).min()]
        for fold, after in zip(folds, np.roll(folds, -1), strict=True):
            rest = self.parallel[(self.fold != fold) & (self.fold != after)]
            counts.append(np.bincount(rest, minlength=2).min() * 2)
        return len(folds) >= 3 and min(counts) >= FEWEST


@dataclass(frozen=True)
class Probe:
    """What one layer tells about the points of one form and kind."""

    form: Form
    kind: str
    layer: int | None
    """Its number; None: the baseline without a model."""
    verdict: Verdict
    shuffled: tuple[float, float]
    """AUC with shuffled labels: mean and largest."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"verdict": self.verdict.to_dict(), "shuffled": [round(v, 4) for v in self.shuffled]}


def collect(
    model: LocalModel,
    records: Sequence[Record],
    layers: Sequence[int],
    *,
    forms: Sequence[Form] = ("multiverse", "autoregressive"),
    kinds: Sequence[str] = KINDS,
    say: Callable[[str], None] = lambda _: None,
) -> list[Points]:
    """The points of the records with their states: for each form and kind, in this order.

    Raises:
        TranscriptError: a response breaks the grammar.
        UserError: the tokenizer has no chat template or no end of text.
    """
    found = []
    for form in forms:
        entries = [(record, entry) for record in records if (entry := read(model, record, form, kinds)) is not None]
        sheets, rows = [entry[0] for _, entry in entries], [entry[1] for _, entry in entries]
        states = model.states(sheets, rows, layers, lambda line, form=form: say(f"{form}: {line}"))
        problems = [record.messages[-1]["content"] for record, _ in entries]
        counts = [len(entry[1]) for _, entry in entries]
        fold_N = np.repeat([fold_of(problem) for problem in problems], counts).astype(int)
        all_points = [point for _, entry in entries for point in entry[2]]
        parallel_N = np.array([point.parallel for point in all_points], bool)
        kind_N = np.array([point.kind for point in all_points])
        states_NLD = np.concatenate(states) if states else np.zeros((0, len(layers), 1), np.float32)
        for kind in kinds:
            mine_N = kind_N == kind
            plain = surface(sheets, [row[[p.kind == kind for p in entry[2]]] for row, (_, entry) in zip(rows, entries)])
            found.append(Points(form, kind, states_NLD[mine_N], parallel_N[mine_N], fold_N[mine_N], plain))
    return found


def surface(sheets: Sequence[Sheet], rows: Sequence[np.ndarray]) -> Float[np.ndarray, "N F"]:
    """What a point looks like without a model: its token and the one before it, each as one of the `FREQUENT` or not,
    its position and its logarithm."""
    pairs = list(zip(sheets, rows, strict=True))
    position_N = np.concatenate([sheet.position[row_N] for sheet, row_N in pairs] or [np.zeros(0)])
    columns = [position_N, np.log1p(position_N)]
    for back in (0, 1):
        token_N = np.concatenate([sheet.tokens[row_N - back] for sheet, row_N in pairs] or [np.zeros(0, int)])
        values, counts = np.unique(token_N, return_counts=True)
        columns += [token_N == value for value in values[np.argsort(-counts, kind="stable")[:FREQUENT]]]
    return np.stack(columns, axis=1).astype(float)


def probe(
    points: Points, layers: Sequence[int], shuffles: int = SHUFFLES, say: Callable[[str], None] = lambda _: None
) -> list[Probe]:
    """A probe of each layer, and first one of the baseline; none where there are too few points.

    layers: the layers that `points` were collected for.
    """
    if not points.enough:
        return []
    draw = np.random.default_rng(0)
    shuffled = [draw.permutation(points.parallel) for _ in range(shuffles)]
    seen = [(None, points.surface), *((layer, points.states[:, at]) for at, layer in enumerate(layers))]
    probes = []
    for layer, features_ND in seen:
        say(f"{points.form}, {points.kind}: {'baseline' if layer is None else f'layer {layer}'}")
        validation = CrossValidation(features_ND, points.fold)
        chance = [validation.verdict(labels).auc for labels in shuffled] or [0.5]
        verdict = validation.verdict(points.parallel)
        probes.append(Probe(points.form, points.kind, layer, verdict, (float(np.mean(chance)), max(chance))))
    return probes


def spread(count: int, wanted: int = 5) -> tuple[int, ...]:
    """Layers to look at where none are named: the embedding, the last one, and some between."""
    return tuple(sorted({round(count * step / (wanted - 1)) for step in range(wanted)}))


def table(probes: Sequence[Probe], title: str):
    """The probes as a rich table."""
    from rich.table import Table

    rows = Table(title=title, title_justify="left")
    for name in (
        "form",
        "at",
        "points",
        "parallel",
        "layer",
        "accuracy",
        "majority",
        "balanced",
        "AUC",
        "shuffled AUC",
    ):
        rows.add_column(name, justify="left" if name in ("form", "at") else "right")
    previous = None
    for one in probes:
        verdict, where = one.verdict, (one.form, one.kind)
        if previous not in (None, where):
            rows.add_section()
        previous = where
        rows.add_row(
            *where,
            str(verdict.points),
            str(verdict.positives),
            "token, place" if one.layer is None else str(one.layer),
            *(f"{value:.3f}" for value in (verdict.accuracy, verdict.majority, verdict.balanced, verdict.auc)),
            f"{one.shuffled[0]:.3f} (most {one.shuffled[1]:.3f})",
        )
    return rows
