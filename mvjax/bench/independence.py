"""How well the lexical checks tell paths that lean on a sibling from independent ones, on the planted set.

The wordings that are reported were not used in writing the rules; those of the tuning part are shown beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mvjax.bench.config import IndependenceBench
from mvjax.bench.planted import SETS, Case, cases
from mvjax.bench.report import Bar, Report
from mvjax.curator.checks.independence import check_block
from mvjax.curator.production import Finding

RECALL, PRECISION = 0.8, 0.9
"""What the checks together have to reach."""

Checked = tuple[Case, Sequence[Finding]]


def measure(config: IndependenceBench, report: Report, say: Callable[[str], None]) -> None:
    """Fill the report: a row for each kind of dependence of each part of the set, and one for all."""
    checked: list[Checked] = []
    for name in SETS:
        say(f"{name}: {config.blocks} blocks")
        checked = check_all(cases(name, config.blocks, config.seed))
        kinds = sorted({case.kind for case, _ in checked if case.path})
        report.rows += [row(name, kind, checked) for kind in (*kinds, "all")]
    total = report.rows[-1]
    report.bars.append(Bar("recall on wordings not used in tuning", total["recall"], RECALL, at_most=False))
    report.bars.append(Bar("precision on wordings not used in tuning", total["precision"], PRECISION, at_most=False))
    missed = sorted({case.wording for case, findings in checked if case.path and not findings})
    false = sorted({case.wording for case, findings in checked if not case.path and findings} - {""})
    report.notes.append("found: any check, at any path; by its check: the check that is meant for it")
    report.notes.append("missed: " + ("; ".join(missed) or "none"))
    report.notes.append("false alarms at: " + ("; ".join(false) or "none"))


def check_all(made: Sequence[Case]) -> list[Checked]:
    """Each block with what the checks find."""
    return [(case, check_block(case.block, known=case.known)) for case in made]


def row(name: str, kind: str, checked: Sequence[Checked]) -> dict:
    """Counts over the planted blocks of one kind, or all, and all clean ones."""
    planted = [entry for entry in checked if entry[0].path and kind in ("all", entry[0].kind)]
    clean = [entry for entry in checked if not entry[0].path]
    hits = sum(bool(findings) for _, findings in planted)
    # Alone, a check of one kind answers for the false alarms of that kind only.
    false = sum(any(kind in ("all", finding.check) for finding in findings) for _, findings in clean)
    own = sum(any(finding.check == case.kind for finding in findings) for case, findings in planted)
    return {
        "wordings": name,
        "dependence": kind,
        "planted": len(planted),
        "clean": len(clean),
        "found": hits,
        "by its check": own,
        "false alarms": false,
        "recall": hits / len(planted) if planted else 0.0,
        "precision": hits / (hits + false) if hits + false else 0.0,
    }
