"""Settings of each benchmark. Imports nothing heavy: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

from mvjax.errors import UserError
from mvjax.files import DEFAULT_MODEL
from mvjax.hub.cache import Cached
from mvjax.served_model import KVDtype, ServedModel, WeightDtype

SYNC = 8
"""Steps of one stay in a loop, the engine's or the bare one: timings are taken stay by stay."""


@dataclass(frozen=True)
class Bench:
    """What all benchmarks share."""

    output: Path = Path("runs/bench")
    """Directory that gets NAME.json."""
    repeat: int = 5
    """Repetitions; a figure is their median, with the smallest and the largest."""

    def check(self) -> None:
        """Raise UserError for the first value that makes no sense."""
        for name, value in vars(self).items():
            if any(
                number > 2**31 - 1
                for number in (value if isinstance(value, tuple) else (value,))
                if isinstance(number, int)
            ):
                raise UserError(f"--{name.replace('_', '-')}: give at most {2**31 - 1}")
        if self.repeat is not None and self.repeat < 1:
            raise UserError(f"--repeat {self.repeat}: give 1 or more")
        if self.output.exists() and not self.output.is_dir():
            raise UserError(f"{self.output} is a file: --output must name a directory")


@dataclass(frozen=True)
class ModelBench(Bench, Cached):
    """A benchmark of a model."""

    model: Path = DEFAULT_MODEL
    """Weights: a GGUF file, a Hugging Face directory or an Orbax directory."""
    tokenizer: Path | None = None
    """The tokenizer, where it is not beside or inside the weights: a directory, a tokenizer.json or a .model file."""

    def here(self) -> Self:
        """With paths of this machine in place of names."""
        from mvjax.hub import local_path

        model, tokenizer = local_path(self.model), local_path(self.tokenizer, "tokenizer")
        return replace(self, model=model, tokenizer=tokenizer)


@dataclass(frozen=True)
class RowsBench(ServedModel, ModelBench):
    """A benchmark of one request with several rows."""

    rows: tuple[int, ...] = (1, 2, 4, 8)
    """Branches that run at the same time; 1 must be among them (a fork is counted in its steps)."""
    slots: int = 512
    """Length of the KV stream."""
    steps: int = 48
    """Steps with all rows live, in each repetition; fewer where the KV stream is too short for them."""
    max_branches: int = 8
    """Rows that the engine is built for, however many run."""
    row_counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Row counts that the engine's loop is compiled for; fewer compile faster."""

    def check(self) -> None:
        super().check()
        check_rows(self.rows)
        if 1 not in self.rows:
            raise UserError("--rows: 1 must be among them, for the cost of a fork is counted in its steps")
        if not 1 <= self.max_branches <= 32:
            raise UserError(f"--max-branches {self.max_branches}: give 1 to 32")
        if self.steps < 3 * SYNC:
            raise UserError(f"--steps {self.steps}: give {3 * SYNC} or more, timings are taken {SYNC} steps at a time")


@dataclass(frozen=True)
class EngineBench(RowsBench):
    """Engine step over the bare jitted forward at the same rows; cost of a fork with its reduce; many requests at once;
    recompilations."""

    requests: tuple[int, ...] = (1, 4, 16, 32)
    """Requests that come at once; 1 must be among them (the other numbers are compared with it)."""
    prompt_tokens: int = 128
    """Tokens of each of their prompts."""
    new_tokens: int = 56
    """Tokens that each of them makes."""

    def check(self) -> None:
        super().check()
        if self.requests[:1] != (1,) or list(self.requests) != sorted(set(self.requests)):
            raise UserError(f"--requests {' '.join(map(str, self.requests))}: give rising numbers, 1 among them")
        if self.prompt_tokens < 2:
            raise UserError(f"--prompt-tokens {self.prompt_tokens}: give 2 or more")
        if self.new_tokens < 3 * SYNC:
            raise UserError(f"--new-tokens {self.new_tokens}: give {3 * SYNC} or more, see --steps")


@dataclass(frozen=True)
class DecodeBench(RowsBench):
    """Tokens per second by number of live rows, beside greedy `transformers` generation with PyTorch."""

    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Branches that run at the same time; 1 must be among them (the other counts are compared with it)."""
    torch: bool = True
    """Compare with transformers; off where the packages are missing."""


@dataclass(frozen=True)
class ParallelBench(ServedModel, ModelBench):
    """Wall clock of the parallel over the sequential schedule, beside the bound of the bare forward."""

    repeat: int = 3
    """Repetitions; a figure is their median over items and repetitions, with the smallest and the largest."""
    adapter: str = "demo"
    """LoRA adapter (safetensors) of a model that opens blocks: a file, "demo" for the one that ships with mvjax, or
    "none" for scripted transcripts with paths of equal length."""
    degrees: tuple[int, ...] = (2, 4, 8)
    """Parts of the synthetic items."""
    items: int = 3
    """Items of each degree."""
    slots: int = 1024
    """Length of the KV stream; prompt and answer must fit."""
    path_steps: int = 48
    """Tokens of a scripted path."""
    max_branches: int = 8
    """Rows that the engine is built for."""
    row_counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """Row counts that the engine's loop is compiled for; fewer compile faster."""

    def check(self) -> None:
        super().check()
        check_rows(self.degrees, "--degrees")
        if min(self.degrees) < 2 or max(self.degrees) > min(16, self.max_branches):
            raise UserError(
                f"--degrees: give numbers from 2 to {min(16, self.max_branches)} (--max-branches, 16 at most)"
            )
        if self.items < 1:
            raise UserError(f"--items {self.items}: give 1 or more")
        if self.path_steps < 16:
            raise UserError(f"--path-steps {self.path_steps}: give 16 or more")


@dataclass(frozen=True)
class ServingBench(ServedModel, ModelBench):
    """The server beside its bare engine, requests at once: tokens a second, the time to the first token, a cancel."""

    repeat: int = 3
    """Repetitions; a figure is their median, with the smallest and the largest."""
    concurrency: tuple[int, ...] = (1, 4, 8, 16, 32)
    """Requests that come at once."""
    mode: Literal["both", "autoregressive", "parallel"] = "both"
    """Without blocks, with blocks, or each."""
    adapter: str = "demo"
    """LoRA adapter (safetensors) of a model that opens blocks: a file, or "demo" for the one that ships with mvjax."""
    degree: int = 4
    """Parts of the synthetic items that are asked in the mode parallel."""
    prompt_tokens: int = 132
    """Tokens of the prompts of autoregressive requests."""
    new_tokens: int = 56
    """Tokens that each of them makes."""
    slots: int = 768
    """Length of a KV stream; prompt and answer must fit."""
    max_branches: int = 4
    """Branches of an answer that run at the same time."""

    @property
    def modes(self) -> tuple[Literal["autoregressive", "parallel"], ...]:
        """Each that is measured."""
        return ("autoregressive", "parallel") if self.mode == "both" else (self.mode,)

    def check(self) -> None:
        super().check()
        if not self.concurrency or list(self.concurrency) != sorted(set(self.concurrency)) or self.concurrency[0] < 1:
            raise UserError(f"--concurrency {' '.join(map(str, self.concurrency))}: give rising numbers from 1 on")
        if self.prompt_tokens < 2 or self.new_tokens < 2:
            raise UserError("--prompt-tokens and --new-tokens: give 2 or more each")
        if not 1 <= self.degree <= 16:
            raise UserError(f"--degree {self.degree}: give 1 to 16")
        if not 1 <= self.max_branches <= 32:
            raise UserError(f"--max-branches {self.max_branches}: give 1 to 32")


@dataclass(frozen=True)
class TrainingBench(ModelBench):
    """LoRA training step against transformers with PyTorch and a dense mask, on the same packed row."""

    row_length: int = 2048
    """Tokens in the packed row."""
    rank: int = 16
    """Rank of the adapters."""
    degree: int = 8
    """Most parts of the synthetic items that fill the row."""

    def check(self) -> None:
        super().check()
        if self.row_length < 64:
            raise UserError(f"--row-length {self.row_length}: give 64 or more")
        if self.rank < 1:
            raise UserError(f"--rank {self.rank}: give 1 or more")
        if not 2 <= self.degree <= 16:
            raise UserError(f"--degree {self.degree}: give 2 to 16")


@dataclass(frozen=True)
class MemoryBench(ModelBench):
    """Memory of a LoRA training step against the length, beside transformers with PyTorch and a dense mask."""

    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16384)
    """Tokens T of the packed row."""
    rank: int = 16
    """Rank of the adapters."""
    degree: int = 8
    """Most parts of the synthetic items that fill the row."""
    remat: str = "none"
    """What our layers keep for the backward pass, as in a training configuration."""

    def check(self) -> None:
        super().check()
        if len(self.lengths) < 2 or list(self.lengths) != sorted(set(self.lengths)):
            raise UserError("--lengths: give at least two, rising")
        for length in self.lengths:
            TrainingBench(self.output, row_length=length, rank=self.rank, degree=self.degree).check()
        if self.remat not in ("none", "full", "attention", "products"):
            raise UserError(f"--remat {self.remat}: use none, full, attention or products")


@dataclass(frozen=True)
class AttentionBench(Bench):
    """Temporary memory of compiled attention, forward and backward, against the length (nothing is executed)."""

    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16384, 32768)
    """Tokens T."""
    heads: int = 9
    """Query heads."""
    kv_heads: int = 3
    """Key and value heads."""
    head_dim: int = 64
    """Width of a head."""
    levels: int = 4
    """Levels of hidden intervals."""

    def check(self) -> None:
        super().check()
        if len(self.lengths) < 2 or list(self.lengths) != sorted(set(self.lengths)) or self.lengths[0] < 1:
            raise UserError("--lengths: give at least two, rising")
        for name in ("heads", "kv_heads", "head_dim", "levels"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 1 or more")
        if self.heads % self.kv_heads:
            raise UserError(f"--heads {self.heads} is no multiple of --kv-heads {self.kv_heads}")


@dataclass(frozen=True)
class KernelsBench(AttentionBench):
    """Memory and work of attention compiled for a TPU that need not be here, beside splash and dense attention."""

    lengths: tuple[int, ...] = (2048, 4096, 8192, 16384, 32768, 65536, 131072)
    """Tokens T."""
    heads: int = 8
    """Query heads."""
    kv_heads: int = 2
    """Key and value heads."""
    head_dim: int = 128
    """Width of a head."""
    chip: str = "v5e:2x2"
    """TPU slice to compile for, as libtpu names it."""


@dataclass(frozen=True)
class LayoutBench(Bench):
    """Time to lay out a long transcript: segments, positions, hidden intervals, loss."""

    repeat: int = 20
    """Repetitions; a figure is their median, with the smallest and the largest."""
    tokens: int = 32768
    """Tokens of the transcript."""

    def check(self) -> None:
        super().check()
        if self.tokens < 200:
            raise UserError(f"--tokens {self.tokens}: give 200 or more")


@dataclass(frozen=True)
class LikelihoodBench(ModelBench):
    """How well a model's likelihoods tell paths that lean on a sibling from independent ones."""

    repeat: int = 1
    """Nothing is timed here: every run finds the same."""
    adapter: str = "demo"
    """LoRA adapter (safetensors): a file, "demo" for the one that ships with mvjax, or "none"."""
    blocks: int = 100
    """Planted blocks that are judged, half of them dependent."""
    tuning: int = 40
    """Other planted blocks, which thresholds are chosen on."""
    steps: int = 40
    """Pairs of real steps, half of them dependent."""
    seed: int = 0
    """Of the planted blocks."""

    def check(self) -> None:
        super().check()
        for name in ("blocks", "tuning", "steps"):
            if getattr(self, name) < 4:
                raise UserError(f"--{name} {getattr(self, name)}: give 4 or more")


@dataclass(frozen=True)
class QuantisedBench(ModelBench):
    """What weights, keys and values in fewer bits cost: perplexity of held-out text, agreement of likeliest tokens."""

    repeat: int = 1
    """Nothing is timed here: every run finds the same."""
    data: Path | None = None
    """JSONL of problems (question, answer); the 60 of GSM8K's test set that ship with mvjax where it is not given."""
    documents: int = 60
    """Problems that are read, the first ones."""
    tokens: int = 256
    """Tokens of each at most."""
    together: int = 4
    """Documents side by side."""
    weights: tuple[WeightDtype, ...] = ("auto", "int8")
    """Formats of the weights that are compared with auto."""
    kv: tuple[KVDtype, ...] = ("auto", "int8")
    """Formats of keys and values, each with each of the weights'."""

    def check(self) -> None:
        super().check()
        for name, least in (("documents", 2), ("tokens", 2), ("together", 1)):
            if getattr(self, name) < least:
                raise UserError(f"--{name} {getattr(self, name)}: give {least} or more")
        if self.data is not None and not self.data.is_file():
            raise UserError(f"{self.data}: there is no such file")


@dataclass(frozen=True)
class CuratorBench(Bench):
    """The Curator's own work on a record, and its edit distance; the endpoint's time is not in it."""

    repeat: int = 15
    """Repetitions; a figure is their median, with the smallest and the largest."""
    characters: tuple[int, ...] = (3_000, 16_000, 30_000)
    """Lengths of the traces."""

    def check(self) -> None:
        super().check()
        if not self.characters or min(self.characters) < 1:
            raise UserError(f"--characters {' '.join(map(str, self.characters))}: give 1 or more of each")


@dataclass(frozen=True)
class IndependenceBench(Bench):
    """How well the lexical checks tell paths that lean on a sibling from independent ones."""

    repeat: int = 1
    """Nothing is timed here: every run finds the same."""
    blocks: int = 200
    """Planted blocks of each part of the set, half of them dependent."""
    seed: int = 0
    """Of the planted blocks."""

    def check(self) -> None:
        super().check()
        if self.blocks < 4:
            raise UserError(f"--blocks {self.blocks}: give 4 or more")


@dataclass(frozen=True)
class AllBench(ModelBench):
    """All benchmarks, one after the other; what needs a package that is missing is skipped, with its reason."""

    repeat: int | None = None  # pyrefly: ignore[bad-override]  (only here may it be left open)
    """Repetitions of each; None: each benchmark's own number."""
    adapter: str = "demo"
    """Adapter of the parallel benchmark."""


def check_rows(rows: tuple[int, ...], name: str = "--rows") -> None:
    """Raise UserError unless these are different row counts that an engine can run, rising."""
    if not rows or list(rows) != sorted(set(rows)) or rows[0] < 1 or rows[-1] > 16:
        raise UserError(f"{name} {' '.join(map(str, rows))}: give rising numbers from 1 to 16")
