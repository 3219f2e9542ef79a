"""One problem's way through the curator on a terminal: what went in beside what came out, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from mvjax.curator.display.story import Flow, Fork, Passage, Split, Story

STATES = {"parallel": "bold green", "sequential": "bold yellow", "rejected": "bold red", "pending": "bold"}
SIDE_BY_SIDE = 100
"""Columns of a terminal from which on two texts stand side by side."""


def show(console: Console, story: Story) -> None:
    """Print all stages."""
    for part in parts(story, console.width):
        console.print(part)


def parts(story: Story, width: int) -> Iterator[RenderableType]:
    """What is printed, from top to bottom."""
    yield heading(story)
    if story.steps:
        yield Rule("outline, dependencies, original sentences", align="left", style="dim")
        yield steps_table(story)
    if story.flow:
        yield Rule("structure", align="left", style="dim")
        yield structure(story.flow)
    original, result = numbered(story.sentences), transcript(story.transcript)
    if width >= SIDE_BY_SIDE and story.transcript:
        columns = Table(box=None, expand=True, padding=(0, 2, 0, 0))
        columns.add_column("original", ratio=1)
        columns.add_column("transcript", ratio=1)
        columns.add_row(original, result)
        yield Rule(style="dim")
        yield columns
    else:
        yield Rule("original", align="left", style="dim")
        yield original
        if story.transcript:
            yield Rule("transcript", align="left", style="dim")
            yield result
    yield from checks(story)
    if story.calls:
        yield Rule("calls", align="left", style="dim")
        yield calls_table(story)


def heading(story: Story) -> RenderableType:
    """Name, how it ended and why, the question, the answer."""
    outcome, problem = story.outcome, story.problem
    state = "pending" if outcome is None else outcome.state
    first = Text.assemble((problem.id, "bold"), "  ", (state, STATES[state]))
    lines = [first]
    if outcome is not None and outcome.check:
        lines.append(Text(f"{outcome.check}: {outcome.reason}"))
    lines.append(Text.assemble(("question  ", "dim"), problem.question.strip()))
    if problem.answer:
        lines.append(Text.assemble(("answer  ", "dim"), problem.answer))
    return Group(*lines)


def steps_table(story: Story) -> Table:
    """The outline: each step with what it needs and the sentences that were put into it."""
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("step", no_wrap=True)
    table.add_column("summary", ratio=2)
    table.add_column("needs", ratio=1)
    table.add_column("original sentences", ratio=4)
    for step in story.steps.values():
        known = [number for number in step.sentences if 0 < number <= len(story.sentences)]
        text = Text(" ").join(_sentence(number, story.sentences[number - 1]) for number in known)
        depth = step.label.count(".")
        label = Text("  " * depth + step.label, style="bold" if depth == 0 else "")
        table.add_row(label, Text(step.summary), Text(" ".join(step.needs)), text)
    return table


def structure(flow: Flow) -> Tree:
    """What runs one after the other and what side by side."""
    tree = Tree("", hide_root=True)
    _grow(tree, flow)
    return tree


def _grow(tree: Tree, flow: Flow) -> None:
    for entry in flow:
        if not isinstance(entry, Fork):
            tree.add(Text(" → ".join(entry.labels)))
            continue
        about = [f"({entry.kind})"] if entry.kind else []
        about += [entry.reason] if entry.reason else []
        group = tree.add(Text.assemble(("side by side", "bold magenta"), " ", " ".join(about)))
        for number, branch in enumerate(entry.branches, 1):
            _grow(group.add(Text(f"branch {number}", style="cyan")), branch)


def numbered(sentences: tuple[str, ...]) -> Text:
    """The original reasoning with its sentences numbered."""
    return Text("\n").join(_sentence(number, sentence) for number, sentence in enumerate(sentences, 1))


def _sentence(number: int, sentence: str) -> Text:
    return Text.assemble((f"[{number}] ", "dim"), sentence.strip())


def transcript(passages: tuple[Passage | Split, ...]) -> RenderableType:
    """The response as a tree of passages, goals, paths and conclusions."""
    tree = Tree("", hide_root=True)
    _write(tree, passages, "")
    return tree


def _write(tree: Tree, passages: tuple[Passage | Split, ...], prefix: str) -> None:
    for entry in passages:
        if isinstance(entry, Passage):
            tree.add(Text(entry.text))
            continue
        block = tree.add(Text(f"block of {len(entry.paths)} paths", style="bold magenta"))
        for number, (goal, path) in enumerate(zip(entry.goals, entry.paths), 1):
            label = f"{prefix}{number}"
            _write(block.add(Text.assemble((f"path {label}  ", "bold cyan"), (goal, "italic"))), path, f"{label}.")
        block.add(Text.assemble(("conclusion  ", "bold magenta"), entry.conclusion))


def checks(story: Story) -> Iterator[RenderableType]:
    """What the checks found on the way."""
    if story.outcome is None:
        return
    yield Rule("checks", align="left", style="dim")
    if not story.outcome.findings:
        yield Text("nothing was found", style="green")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("stage", "check", "where", "reason"):
        table.add_column(name, overflow="fold")
    for finding in story.outcome.findings:
        table.add_row(*map(Text, (finding.stage or "record", finding.check, finding.where, finding.reason)))
    yield table


def calls_table(story: Story) -> Table:
    """The calls, with what they took; those that count no more have no number."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("call", "stage", "about", "ended", "in", "out", "s", "cost", "asked again because"):
        table.add_column(name, justify="right" if name in ("call", "in", "out", "s", "cost") else "left")
    for call in story.calls:
        reply = call.reply
        taken = (str(reply.prompt_tokens), str(reply.completion_tokens), f"{reply.seconds:.1f}", f"{call.cost:.4f}")
        number = "" if call.number is None else str(call.number + 1)
        table.add_row(*map(Text, (number, call.stage, call.where, reply.finish, *taken, " ".join(call.why.split()))))
    replies = [call.reply for call in story.calls]
    taken = (sum(reply.prompt_tokens for reply in replies), sum(reply.completion_tokens for reply in replies))
    seconds, cost = sum(reply.seconds for reply in replies), sum(call.cost for call in story.calls)
    table.add_row("", "all", "", "", *map(str, taken), f"{seconds:.1f}", f"{cost:.4f}", "")
    return table
