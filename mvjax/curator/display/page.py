"""One problem's way through the curator as a page for a browser: one file, no network, everything escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib import resources

from mvjax.curator.display.story import Flow, Fork, Passage, Split, Story


def page(story: Story) -> str:
    """The page."""
    frame = resources.files("mvjax") / "assets" / "curator_page.html"
    parts = {
        "title": escape(story.problem.id),
        "heading": heading(story),
        "original": original(story),
        "transcript": transcript(story),
        "steps": steps(story),
        "structure": structure(story.flow) if story.flow else "<p>There is none.</p>",
        "checks": checks(story),
        "calls": calls(story),
    }
    # Split, not replaced one after the other: what is put in may hold the marks of other parts.
    pieces = frame.read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


def heading(story: Story) -> str:
    """Name, how it ended and why, question, answer."""
    outcome, problem = story.outcome, story.problem
    state = "pending" if outcome is None else outcome.state
    lines = [f'<h1><bdi>{escape(problem.id)}</bdi> <span class="state {state}">{state}</span></h1>']
    if outcome is not None and outcome.check:
        lines.append(text("p", f"{outcome.check}: {outcome.reason}", "why"))
    lines.append(text("p", problem.question, "question"))
    if problem.answer:
        lines.append(f"<p>Answer: <bdi>{escape(problem.answer)}</bdi></p>")
    return "\n".join(lines)


def original(story: Story) -> str:
    """The original reasoning, each sentence with its number."""
    return "\n".join(
        f'<p dir="auto" id="s{number}"><span class="number">{number}</span> {escape(sentence.strip())}</p>'
        for number, sentence in enumerate(story.sentences, 1)
    )


def transcript(story: Story) -> str:
    """The response: passages, and blocks with their paths in columns."""
    return _passages(story, story.transcript, "") or "<p>There is none.</p>"


def _passages(story: Story, passages: Iterable[Passage | Split], prefix: str) -> str:
    return "\n".join(
        _passage(story, entry) if isinstance(entry, Passage) else _split(story, entry, prefix) for entry in passages
    )


def _passage(story: Story, passage: Passage) -> str:
    marks = "".join(
        f'<button {_points_at(story, (label,))} title="{escape(story.steps[label].summary)}">{escape(label)}</button>'
        for label in passage.labels
        if label in story.steps
    )
    marks = f'<span class="marks">{marks}</span>' if marks else ""
    return f'<div class="passage" {_points_at(story, passage.labels)}>{marks}{text("p", passage.text)}</div>'


def _split(story: Story, split: Split, prefix: str) -> str:
    columns = "\n".join(
        f'<section class="path"><h4 {_points_at(story, _labels(path))}>{prefix}{number} <bdi>{escape(goal)}</bdi></h4>'
        f"{_passages(story, path, f'{prefix}{number}.')}</section>"
        for number, (goal, path) in enumerate(zip(split.goals, split.paths), 1)
    )
    reason = text("p", split.reason, "reason") if split.reason else ""
    conclusion = text("p", split.conclusion, "conclusion")
    return f'<div class="block">{reason}<div class="paths">{columns}</div>{conclusion}</div>'


def _labels(passages: Iterable[Passage | Split]) -> tuple[str, ...]:
    """The steps that a path came from."""
    labels: tuple[str, ...] = ()
    for entry in passages:
        labels += (
            entry.labels if isinstance(entry, Passage) else tuple(l for path in entry.paths for l in _labels(path))
        )
    return labels


def _points_at(story: Story, labels: tuple[str, ...]) -> str:
    """Attribute that names the sentences of some steps, for the script that lights them up."""
    return f'data-sentences="{" ".join(map(str, story.sentences_of(labels)))}"'


def steps(story: Story) -> str:
    """The outline with its dependencies."""
    return table(
        ("step", "summary", "needs", "sentences"),
        [
            (step.label, step.summary, " ".join(step.needs), " ".join(map(str, step.sentences)))
            for step in story.steps.values()
        ],
    )


def structure(flow: Flow) -> str:
    """What runs one after the other and what side by side, as nested lists."""
    items = []
    for entry in flow:
        if not isinstance(entry, Fork):
            items.append(f"<li>{escape(' → '.join(entry.labels))}</li>")
            continue
        about = escape(f"({entry.kind}) " if entry.kind else "") + f"<bdi>{escape(entry.reason)}</bdi>"
        branches = "".join(f"<li>{structure(branch)}</li>" for branch in entry.branches)
        items.append(f'<li><b>side by side</b> {about}<ol class="branches">{branches}</ol></li>')
    return f"<ul>{''.join(items)}</ul>"


def checks(story: Story) -> str:
    """What the checks found on the way."""
    if story.outcome is None:
        return "<p>It has not ended.</p>"
    found = story.outcome.findings
    if not found:
        return "<p>Nothing was found.</p>"
    rows = [(finding.stage or "record", finding.check, finding.where, finding.reason) for finding in found]
    return table(("stage", "check", "where", "reason"), rows)


def calls(story: Story) -> str:
    """The calls, with what they took; those that count no more have no number."""
    rows = []
    for call in story.calls:
        reply = call.reply
        number = "" if call.number is None else call.number + 1
        taken = (reply.prompt_tokens, reply.completion_tokens, f"{reply.seconds:.1f}", f"{call.cost:.4f}")
        rows.append((number, call.stage, call.where, reply.finish, *taken, call.why))
    head = ("call", "stage", "about", "ended", "tokens in", "tokens out", "seconds", "cost", "asked again because")
    return table(head, rows)


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table of texts."""
    top = "".join(f"<th>{name}</th>" for name in head)
    lines = "\n".join(
        "<tr>" + "".join(f'<td dir="auto">{escape(str(cell))}</td>' for cell in row) + "</tr>" for row in rows
    )
    if not lines:
        return "<p>There are none.</p>"
    return f'<div class="wide"><table><tr>{top}</tr>\n{lines}</table></div>'


def text(tag: str, content: str, kind: str = "") -> str:
    """An element of running text: its line breaks are kept, its direction is that of its script."""
    named = f' class="{kind}"' if kind else ""
    return f'<{tag} dir="auto"{named}>{escape(content.strip())}</{tag}>'
