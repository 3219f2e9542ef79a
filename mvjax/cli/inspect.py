"""`mvjax inspect`: what a transcript says: its tree, layout, measures and faults, and a picture of its mask."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mvjax.cli.options import parse
from mvjax.data.formats import FormatName
from mvjax.errors import UserError
from mvjax.hub.cache import Cached

if TYPE_CHECKING:
    from mvjax.display.document import Document


@dataclasses.dataclass(frozen=True)
class InspectArguments(Cached):
    """Show a transcript: its tree, layout, measures and faults. Exit status 2 if it has faults."""

    file: str
    """A transcript as text; a JSON record or JSON lines, with "response" (text) or "tokens" (strings or ids); - reads
    standard input. Several records are shown as a table; pick one with --record."""
    format: FormatName | None = None
    """Read training data, whose answers are the transcripts, as `mvjax train --data.format` reads it: files, folders
    and datasets of the hub. auto: by the keys of the first row."""
    record: str | None = None
    """The record to show: its id or name, or its number in the file, from 1."""
    prompt_length: int = 0
    """How many characters of text, or tokens, at the beginning are a prompt: tags in it are plain text. A record's own
    "prompt_length" goes first."""
    tokenizer: Path | None = None
    """Tokenizer (directory, .gguf or .model file) to split text with and to read token ids. Without it, words,
    newlines and tags are the tokens."""
    engine_output: bool = False
    """Accept what only an engine makes: abandoned or cancelled blocks, labels of any kind, text beside elements."""
    complete: bool = False
    """Count a cut transcript as a fault."""
    every_token: bool = False
    """Also list every token: segment, position, part, whether it is trained on, what it is hidden from."""
    picture: Path | None = None
    """Write a picture (PNG) of the attention mask."""
    json: bool = False
    """Print JSON, one object a record."""


def main(argv: list[str]) -> int:
    """Run the verb; returns the exit status."""
    import tyro

    options = Annotated[InspectArguments, tyro.conf.arg(name="")]
    return inspect(parse(options, argv, "inspect", config=(tyro.conf.PositionalRequiredArgs,)))


def inspect(arguments: InspectArguments) -> int:
    """Read, check, show. Returns 0, or 2 where a transcript has faults."""
    from rich.console import Console

    from mvjax.cli.transcript_files import read_data, read_sources, select
    from mvjax.display.document import examine
    from mvjax.display.measures import as_json
    from mvjax.display.terminal_view import show, show_many, summary

    if arguments.format is None:
        sources = read_sources(arguments.file, arguments.prompt_length)
    else:
        sources = read_data(arguments.file, arguments.format)
    sources = select(sources, arguments.record, arguments.file)
    if arguments.picture is not None and len(sources) != 1:
        raise UserError(f"{arguments.file}: has {len(sources)} records; pick the one to draw with --record")
    if arguments.picture is not None and arguments.picture.suffix.lower() != ".png":
        raise UserError(f"{arguments.picture}: pictures are written as PNG; give a name that ends in .png")
    tokenizer = None
    if arguments.tokenizer is not None:
        from mvjax.hub import local_path
        from mvjax.tokenizers import load_tokenizer

        tokenizer = load_tokenizer(local_path(arguments.tokenizer, "tokenizer")).with_control_tags()
    # Piped, lines need not fit a terminal: only COLUMNS limits them.
    width = None if sys.stdout.isatty() else shutil.get_terminal_size(fallback=(160, 24)).columns
    console = Console(width=width, highlight=False)
    rows, faulty = [], []
    for source in sources:
        document = examine(source, tokenizer, arguments.engine_output, arguments.complete)
        if document.faults:
            faulty.append(document)
        if arguments.picture is not None:
            write_picture(document, arguments.picture)
        if arguments.json:
            print(json.dumps(as_json(document)))
        elif len(sources) == 1:
            show(console, document, arguments.every_token)
        else:
            rows.append(summary(document))
    if rows:
        show_many(console, rows)
    if not faulty:
        return 0
    print(f"error: {in_one_line(faulty)}", file=sys.stderr)
    return 2


def in_one_line(faulty: list[Document]) -> str:
    """The first fault, and how many there are beside it."""
    from mvjax.display.measures import shown

    first = faulty[0]
    more = [f"{len(first.faults) - 1} more here"] * (len(first.faults) > 1)
    more += [f"faults in {len(faulty) - 1} more records"] * (len(faulty) > 1)
    hint = "; legal as an engine's output: --engine-output accepts it" if first.legal_for_engine else ""
    text = f"{first.name}: {first.describe(first.faults[0])}{hint}" + (f" ({', '.join(more)})" if more else "")
    return shown(text)


def write_picture(document: Document, path: Path) -> None:
    """The mask as PNG; none where faults leave no layout."""
    from mvjax.display.mask_picture import draw_mask
    from mvjax.display.measures import segments, shown
    from mvjax.files import atomic_path

    layout = document.layout
    if layout is None:
        print(f"{path}: not written, a malformed transcript has no mask", file=sys.stderr)
        return
    if not len(layout.segment):
        raise UserError(f"{document.name}: has no tokens to draw")
    title = f"{shown(document.name, 60)}   {len(layout.segment):,} tokens, # parallel {layout.degree:.2f}"
    names = [f"{entry['name']} ({entry['tokens']} tokens)" for entry in segments(document)]
    with atomic_path(path) as temporary:
        draw_mask(layout, title, names).save(temporary, format="PNG")
    print(f"{path}: mask of {len(layout.segment):,} tokens", file=sys.stderr)
