"""The packed dataset of a run, from the files that its configuration names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from mvjax.data.build import build_store
from mvjax.data.corpus import Corpus
from mvjax.data.pipeline import PackedBatches
from mvjax.data.schedule import PipelineConfig
from mvjax.data.sources import describe, open_data
from mvjax.data.store import open_store, pull_store, push_store, store_path
from mvjax.hub import Source
from mvjax.models.placement import Placement
from mvjax.storage import StoragePath, cache_directory
from mvjax.tokenizers import Tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.distributed import HostSync, is_first
from mvjax.training.mesh import local_rows

BUILD_PATIENCE = 24 * 3600.0
"""Seconds that the other processes wait for process 0 to encode the records."""


def load_data(
    config: TrainConfig,
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    placement: Placement,
    sync: HostSync,
    console: Console | None = None,
    *,
    held_out: bool = False,
) -> PackedBatches:
    """The endless packed dataset of the configuration, this process's rows of it; the tokenizer has the control tags.

    held_out: it is only measured: every record once a pass, in order, in the form that is taught.

    Process 0 encodes the records once, or fetches what an earlier run has left in the bucket; all read what it has.
    """
    data, form = config.data, config.held_out.format if held_out else "auto"
    files = open_data(sources, data.format if form == "auto" else form, suffix=data.suffix)
    kept = StoragePath(data.store) if data.store else StoragePath(config.output.directory) / ".tokens"
    path = store_path(files, tokenizer, kept.local or cache_directory() / "tokens")
    sync.same("the data or the tokenizer", path.name, "give all hosts the same files")
    if is_first():
        console = console or Console(highlight=False, soft_wrap=True)
        for line in describe(files, [source.name for source in sources]):
            console.print(line, markup=False)
        pull_store(kept / path.name, path)
        build_store(path, files, tokenizer, console=console)
        push_store(path, kept / path.name)
    sync.gather("the encoded records", None, patience=BUILD_PATIENCE)
    pull_store(kept / path.name, path)
    pipeline = PipelineConfig(
        row_length=data.row_length,
        rows=data.rows,
        levels=data.levels,
        shares=data.curriculum if data.form == "multiverse" else (0.0,),
        seed=config.seed,
        equal_records=data.equal_records,
        max_bad_share=data.max_bad_share,
        transcripts=data.transcripts_per_step,
        tokens=data.tokens_per_step,
    )
    if held_out:
        shares = (1.0 if data.form == "multiverse" else 0.0,)
        pipeline = replace(pipeline, shares=shares, shuffle=False, equal_records=False, transcripts=0, tokens=0)
    corpus = Corpus(open_store(path, patience=60.0), pipeline)
    repeat = corpus.repeat([data.repeat[file.entry] for file in files]) if data.repeat and not held_out else None
    return PackedBatches(corpus, pipeline, repeat, local_rows(placement, data.rows, data.accumulation))
