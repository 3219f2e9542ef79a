"""The configuration of a training run, in sections."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np

from mvjax import settings
from mvjax.data.formats import FormatName
from mvjax.settings import setting

free = partial(setting, may_change=True)
"""A field that a resumed run may change."""


@dataclass(frozen=True)
class BaseModelConfig:
    """The model that training starts from, and how it is computed."""

    path: str = setting("")
    """Weights to start from: a Hugging Face directory, a .gguf file or an Orbax directory; or a name on the hub,
    OWNER/NAME[@REVISION]. A resumed run reads the same commit."""
    tokenizer: str = setting("")
    """Tokenizer, where it is not beside the weights: a directory, a .gguf file or a SentencePiece .model."""
    cache: str = free("")
    """Directory that keeps what is downloaded from the hub; "": as HF_HUB_CACHE and HF_HOME say."""
    dtype: Literal["float32", "bfloat16"] = setting("float32")
    """Compute type: float32 (what a CPU does best) or bfloat16."""
    master_dtype: Literal["float32", "bfloat16"] = setting("float32")
    """Type of parameters and Adam's moments where all weights are trained: float32, or bfloat16 for half the memory,
    updates rounded stochastically and moments to the nearest. Adapters and tag rows are float32."""
    scan_layers: bool = setting(True)
    """Scan over stacked layers instead of unrolling them: compiles in a fraction of the time, and as fast a step."""
    remat: Literal["none", "full", "attention", "products"] = free("none")
    """What each layer keeps for the backward pass: none (all is kept), full (only its input; a third more work),
    attention (that and what attention needs, which is not run again), products (matrix products)."""
    attention: Literal["auto", "xla", "tpu", "gpu"] = free("auto")
    """Attention backend: auto, xla, tpu or gpu."""


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA adapters."""

    rank: int = setting(0, at_least=0)
    """Rank of the adapters; 0: all weights are trained."""
    alpha: float = setting(32.0, above=0)
    """Scale: an adapter's output is multiplied by alpha / rank."""
    targets: tuple[str, ...] = setting(("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
    """Projections that get an adapter."""


@dataclass(frozen=True)
class DataConfig:
    """Records, and how they are packed into the rows of a step."""

    files: tuple[str, ...] = setting(())
    """Data, read in this order: .jsonl (records of `mvjax curate` and other formats), .json, .parquet and .arrow files,
    folders of them, folders that `datasets` saved; or datasets of the hub, hf://datasets/OWNER/NAME[@REVISION][/PATH]."""
    repeat: tuple[int, ...] = setting((), at_least=1)
    """How often each file or folder enters a pass (one number each); empty: once each."""
    format: FormatName = setting("auto")  # noqa: RUF009
    """What the rows are. auto: by their keys; records: both forms (messages, response, autoregressive). The others are
    taught as sequential text: messages (role, content), sharegpt (from, value), problem (problem, solution), prompt
    (prompt, response)."""
    suffix: bool = setting(False)
    """The prompts of data that is taught as sequential text end with the suffix of the autoregressive form."""
    form: Literal["multiverse", "autoregressive"] = setting("multiverse")
    """multiverse: the curriculum decides the form of each record; autoregressive: every record in sequential form.
    A step holds the same records either way."""
    curriculum: tuple[float, ...] = setting((1.0,), at_least=0, at_most=1)
    """Share of Multiverse-form records in each pass, in order; the last share holds for all later passes."""
    equal_records: bool = setting(False)
    """Rows have room for the longer form of each record, so that a step holds the same records whatever their form:
    twins can be compared. Rows are less full."""
    store: str = free("")
    """Directory that keeps the encoded records; "": `.tokens` in the output directory."""
    max_bad_share: float = setting(0.02, at_least=0, at_most=1)
    """Records that are malformed, longer than a row or nested too deep are left out; a larger share ends the run."""
    row_length: int = setting(512, at_least=1)
    """Tokens in a packed row."""
    levels: int = setting(4, at_least=1)
    """Levels of hidden intervals a batch carries: one for the document and one for each level of nesting."""
    rows: int = setting(8, at_least=1)
    """Rows in a step's batch, all devices and micro-batches together. They are packed full, unless one of the next two
    fields says what a step holds: then rows must be enough for that, and what is left over is padding."""
    transcripts_per_step: int = setting(0, at_least=0)
    """Transcripts in a step, as the paper counts its batch of 16; 0: as many as its rows hold."""
    tokens_per_step: int = setting(0, at_least=0)
    """Tokens of transcripts in a step at most, padding left out; 0: as many as its rows hold."""
    accumulation: int = free(1, at_least=1)
    """Micro-batches that a step's rows are split into, one after the other, to bound memory."""

    def conflict(self) -> str:
        """What fields of this section contradict each other; empty: none."""
        if not self.curriculum:
            return "curriculum = () must have a share for the first pass"
        if self.repeat and len(self.repeat) != len(self.files):
            return f"repeat = {self.repeat} must have one number for each of the {len(self.files)} files"
        if self.rows % self.accumulation:
            return f"rows = {self.rows} cannot be split into accumulation = {self.accumulation} parts"
        if self.transcripts_per_step and self.tokens_per_step:
            return "transcripts_per_step and tokens_per_step cannot both say what a step holds; leave one of them 0"
        return ""


@dataclass(frozen=True)
class LossConfig:
    """Cross-entropy of the target tokens."""

    chunk: int = free(256, at_least=1)
    """Target tokens whose logits exist at the same time, on each device."""
    z_loss: float = setting(0.0, at_least=0)
    """Factor of the squared log of the softmax's denominator; 0: none. 1e-4 is usual."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    learning_rate: float = setting(1e-5, above=0)
    """Peak learning rate."""
    final_learning_rate: float = setting(0.0, at_least=0)
    """Share of the peak that the cosine ends at."""
    warmup: float = setting(0.05, at_least=0, at_most=1)
    """Share of the steps over which the learning rate rises linearly from zero."""
    tag_multiplier: float = setting(1.0, above=0)
    """The control tags' rows of the embedding and the output matrix learn with this many times the learning rate."""
    weight_decay: float = setting(1e-4, at_least=0)
    """Decoupled weight decay of matrices; norms, biases and tag rows beside adapters are not decayed."""
    beta1: float = setting(0.9, at_least=0, at_most=1)
    """Adam's decay of the first moment."""
    beta2: float = setting(0.95, at_least=0, at_most=1)
    """Adam's decay of the second moment."""
    epsilon: float = setting(1e-8, above=0)
    """Adam's epsilon."""
    clip: float = setting(1.0, at_least=0)
    """Gradients are scaled down to this global norm; 0: never."""


@dataclass(frozen=True)
class MeshConfig:
    """The mesh of chips. A resumed run may have another one."""

    data: int = free(0, at_least=0)
    """Copies of the model that the rows are spread over; 0: as many as the other axes leave chips for."""
    fsdp: int = free(1, at_least=1)
    """Chips that share the weights of one copy along their embed axis, and its rows (fully sharded data parallel)."""
    context: int = free(1, at_least=1)
    """Chips that share the text of a row."""
    context_rounds: int = free(1, at_least=1)
    """Rounds of chunks that a row's text is dealt out in: more of them balance trees better; a chunk of row_length /
    (2 context context_rounds) tokens must hold whole attention tiles."""
    tensor: int = free(1, at_least=1)
    """Chips that share heads, feed-forward width and vocabulary."""
    slices: int = free(1, at_least=1)
    """Pod slices that are joined by the data-centre network; only the data axis crosses it."""


@dataclass(frozen=True)
class StepsConfig:
    """How long the run is."""

    total: int = setting(0, at_least=0)
    """Optimizer steps; 0: as many as `passes` need."""
    passes: int = setting(1, at_least=1)
    """Passes over the data, where `total` is 0."""
    max_skipped: int = setting(0, at_least=0)
    """Steps whose loss or gradient is not finite that may be skipped; one more ends the run."""
    stop_after: int = free(0, at_least=0)
    """Stop as if interrupted after this many steps of this start; 0: run to the end. The schedule is not changed."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Checkpoints."""

    every: int = free(100, at_least=1)
    """Steps between two checkpoints."""
    keep: int = free(2, at_least=1)
    """Checkpoints kept, the newest ones."""
    keep_every: int = free(0, at_least=0)
    """Checkpoints of every step that is a multiple of it are never removed; 0: none."""


@dataclass(frozen=True)
class HeldOutConfig:
    """Text that is not trained on, whose loss is measured during the run."""

    files: tuple[str, ...] = free(())
    """Data that is measured, as in data.files, with none of its records. Empty: nothing is measured."""
    format: FormatName = free("auto")  # noqa: RUF009
    """What its rows are, as in data.format. auto: what data.format says."""
    every: int = free(0, at_least=0)
    """Steps between two measurements; 0: those between two checkpoints. The last step is measured in any case."""
    batches: int = free(0, at_least=0)
    """Batches, of the size of a step's, that are measured at most; 0: all records once."""
    keep_best: bool = free(True)
    """Keep the checkpoint with the least loss, beside the newest ones: `mvjax export RUN --checkpoint best`."""


@dataclass(frozen=True)
class OutputConfig:
    """Where the run is kept, and what it reports."""

    directory: str = free("runs")
    """Directory that holds the runs: each is in DIRECTORY/NAME. Local, or gs://BUCKET/NAME with the extra gcs."""
    patience: float = free(600.0, at_least=0)
    """Seconds for which a bucket may be away while training goes on; then the run ends with status 75, its last
    checkpoint kept."""
    log_every: int = free(1, at_least=1)
    """Steps between two lines of metrics."""
    tensorboard: bool = free(True)
    """Write TensorBoard event files beside metrics.jsonl."""
    tracker: Literal["", "wandb", "trackio"] = free("")
    """Send the lines of metrics to Weights & Biases (wandb, with the extra of that name) or Trackio (trackio) too, as
    their environment variables say; the run's id there is in DIRECTORY/NAME/tracker.json. It never stops a run."""
    profile_start: int = free(0, at_least=0)
    """First step that JAX's profiler records, into DIRECTORY/NAME/profile; 0: none."""
    profile_steps: int = free(3, at_least=1)
    """Steps that it records."""
    sample_every: int = free(0, at_least=0)
    """Steps between two samples: short answers of the current model, printed and kept in DIRECTORY/NAME/samples (one
    process only; needs room for a copy of the weights on one device); 0: none."""
    sample_prompt: str = free("Part 1: start at 5, add 3. Part 2: start at 9, subtract 4. What is each part?")
    """The question that samples answer."""
    sample_tokens: int = free(128, at_least=1)
    """New tokens of a sample at most."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run; presets in `configs/` are instances of it."""

    name: str = setting("run")
    """Name of the run: its directory is OUTPUT.DIRECTORY/NAME, found again on the next start."""
    seed: int = setting(0, at_least=0)
    """Seed of the data order and of the new parameters."""
    model: BaseModelConfig = field(default_factory=BaseModelConfig)
    lora: AdapterConfig = field(default_factory=AdapterConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    steps: StepsConfig = field(default_factory=StepsConfig)
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    output: OutputConfig = field(default_factory=OutputConfig)

    def conflict(self) -> str:
        """What is wrong with the name; empty: nothing."""
        wrong = not self.name or "/" in self.name or self.name.startswith(".")
        return f"name = {self.name!r} must be a plain directory name" if wrong else ""

    def validate(self) -> TrainConfig:
        """The same configuration, if its values make sense; UserError names the first that does not."""
        settings.validate(self)
        return self

    def replace(self, **changes: Any) -> TrainConfig:
        """A copy with changes; a section takes a dict, as in `config.replace(name="b", mesh={"fsdp": 8})`."""
        return settings.replace(self, changes)


DEFAULTS = tuple(settings.leaves(TrainConfig()))
"""Every field, as it is by default."""


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as plain JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=np.generic.item))


RENAMED = {
    "output": "output.directory",
    "model": "model.path",
    "data": "data.files",
    "tokens": "data.store",
    "steps": "steps.total",
    "lora_rank": "lora.rank",
    "lora_alpha": "lora.alpha",
    "lora_targets": "lora.targets",
    "loss_chunk": "loss.chunk",
    "data_parallel": "mesh.data",
    "context_parallel": "mesh.context",
    "tensor_parallel": "mesh.tensor",
    "steps_per_log": "output.log_every",
    "steps_per_save": "checkpoints.every",
    "steps_per_sample": "output.sample_every",
}
"""Fields of mvjax 0.1, whose configuration had no sections, that now have another name; all others kept theirs."""


def dotted_name(flat: str) -> str:
    """The name of a field that is given without its section, or by its name in mvjax 0.1; "" where there is none."""
    names = [leaf.name for leaf in DEFAULTS if leaf.name.rpartition(".")[2] == flat]
    return RENAMED.get(flat) or next(iter(names), "")


def values_of(old: Mapping[str, Any]) -> dict[str, Any]:
    """Value of each field, by its dotted name, of a configuration as JSON values (`to_dict`, or the flat one of mvjax
    0.1); fields that its version did not have are as they are by default."""
    values = {leaf.name: list(leaf.value) if isinstance(leaf.value, tuple) else leaf.value for leaf in DEFAULTS}
    for name, value in old.items():
        if isinstance(value, Mapping):
            values |= {f"{name}.{field}": inner for field, inner in value.items()}
        else:
            values[dotted_name(name)] = value
    return values


def first_difference(old: Mapping[str, Any], config: TrainConfig) -> str | None:
    """What keeps `config` from resuming a run that was started with `old` (`to_dict`, or the flat configuration of
    mvjax 0.1); None where nothing does."""
    before = values_of(old)
    for leaf in settings.leaves(config):
        value, was = list(leaf.value) if isinstance(leaf.value, tuple) else leaf.value, before[leaf.name]
        if not leaf.metadata["may_change"] and was != value:
            return f"{leaf.name} was {was!r} and is now {value!r}"
    return None
