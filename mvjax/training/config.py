"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mvjax.errors import UserError

IDENTITY_FREE = frozenset(
    {
        *("output", "steps_per_log", "steps_per_save", "keep", "keep_every", "tensorboard", "stop_after", "tokens"),
        *("profile_start", "profile_steps", "steps_per_sample", "sample_prompt", "sample_tokens"),
        *("data_parallel", "fsdp", "context_parallel", "context_rounds", "tensor_parallel", "slices"),
        *("accumulation", "remat", "attention", "loss_chunk"),
    }
)
"""Fields that a resumed run may change: they touch what is computed by rounding at most."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run; presets in `configs/` are instances of it."""

    name: str = "run"
    """Name of the run: its directory is OUTPUT/NAME, found again on the next start."""
    output: str = "runs"
    """Directory that holds the runs."""
    model: str = ""
    """Weights to start from: a Hugging Face directory, a .gguf file or an Orbax directory."""
    tokenizer: str = ""
    """Tokenizer, where it is not beside the weights: a directory, a .gguf file or a SentencePiece .model."""

    data: tuple[str, ...] = ()
    """Record files (JSON lines) written by `mvjax curate`; read in this order."""
    form: str = "multiverse"
    """multiverse: the curriculum decides the form of each record; autoregressive: every record in sequential form.
    A step holds the same records either way."""
    curriculum: tuple[float, ...] = (1.0,)
    """Share of Multiverse-form records in each pass, in order; the last share holds for all later passes."""
    repeat: tuple[int, ...] = ()
    """How often each file of `data` enters a pass (one number a file); empty: once each."""
    equal_records: bool = False
    """Rows have room for the longer form of each record, so that a step holds the same records whatever their form:
    twins can be compared. Rows are less full."""
    tokens: str = ""
    """Directory that keeps the encoded records; "": `.tokens` in the output directory."""
    max_bad_share: float = 0.02
    """Records that are malformed, longer than a row or nested too deep are left out; a larger share ends the run."""
    row_length: int = 512
    """Tokens in a packed row."""
    levels: int = 4
    """Levels of hidden intervals a batch carries: one for the document and one for each level of nesting."""
    rows: int = 8
    """Rows in a step's batch, all devices and micro-batches together."""
    accumulation: int = 1
    """Micro-batches that a step's rows are split into, one after the other, to bound memory."""

    steps: int = 0
    """Optimizer steps; 0: as many as `passes` need."""
    passes: int = 1
    """Passes over the data, where `steps` is 0."""
    learning_rate: float = 1e-5
    """Peak learning rate."""
    final_learning_rate: float = 0.0
    """Share of the peak that the cosine ends at."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises linearly from zero."""
    tag_multiplier: float = 1.0
    """The tag rows learn with this many times the learning rate (LoRA runs, where they are parameters of their own)."""
    weight_decay: float = 1e-4
    """Decoupled weight decay of matrices; norms, biases and tag rows are not decayed."""
    beta1: float = 0.9
    """Adam's decay of the first moment."""
    beta2: float = 0.95
    """Adam's decay of the second moment."""
    epsilon: float = 1e-8
    """Adam's epsilon."""
    clip: float = 1.0
    """Gradients are scaled down to this global norm; 0: never."""

    lora_rank: int = 0
    """Rank of the LoRA adapters; 0: all weights are trained."""
    lora_alpha: float = 32.0
    """LoRA scale: an adapter's output is multiplied by alpha / rank."""
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Projections that get an adapter."""

    dtype: str = "float32"
    """Compute type: float32 (what a CPU does best) or bfloat16."""
    master_dtype: str = "float32"
    """Type of parameters and Adam's moments where all weights are trained: float32, or bfloat16 for half the memory and
    a rougher descent. Adapters and tag rows are float32."""
    scan_layers: bool = True
    """Scan over stacked layers instead of unrolling them: compiles in a fraction of the time, and as fast a step."""
    remat: str = "none"
    """What each layer keeps for the backward pass: none (all is kept), full (only its input; a third more work),
    attention (that and what attention needs, which is not run again), products (matrix products)."""
    attention: str = "auto"
    """Attention backend: auto, xla, tpu or gpu."""
    loss_chunk: int = 256
    """Target tokens whose logits exist at the same time, on each device."""
    z_loss: float = 0.0
    """Factor of the squared log of the softmax's denominator; 0: none. 1e-4 is usual."""

    data_parallel: int = 0
    """Copies of the model that the rows are spread over; 0: as many as the other axes leave chips for."""
    fsdp: int = 1
    """Chips that share the weights of one copy along their embed axis, and its rows (fully sharded data parallel)."""
    context_parallel: int = 1
    """Chips that share the text of a row."""
    context_rounds: int = 1
    """Rounds of chunks that a row's text is dealt out in: more of them balance trees better; a chunk of row_length /
    (2 context_parallel context_rounds) tokens must hold whole attention tiles."""
    tensor_parallel: int = 1
    """Chips that share heads, feed-forward width and vocabulary."""
    slices: int = 1
    """Pod slices that are joined by the data-centre network; only the data axis crosses it."""
    seed: int = 0
    """Seed of the data order and of the new parameters."""

    steps_per_log: int = 1
    """Steps between two lines of metrics."""
    steps_per_save: int = 100
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    keep_every: int = 0
    """Checkpoints of every so many steps are kept for good; 0: none."""
    max_skipped: int = 0
    """Steps whose loss or gradient is not finite that may be skipped; one more ends the run."""
    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""
    profile_start: int = 0
    """First step that JAX's profiler records, into OUTPUT/NAME/profile; 0: none."""
    profile_steps: int = 3
    """Steps that it records."""
    steps_per_sample: int = 0
    """Steps between two samples: short answers of the model as it is, printed and kept in OUTPUT/NAME/samples (one
    process only; needs room for a copy of the weights on one device); 0: none."""
    sample_prompt: str = "Part 1: start at 5, add 3. Part 2: start at 9, subtract 4. What is each part?"
    """What is asked in samples."""
    sample_tokens: int = 128
    """New tokens of a sample at most."""
    stop_after: int = 0
    """Stop as if interrupted after this many steps of this start; 0: run to the end. The schedule is not changed."""

    def check(self) -> TrainConfig:
        """The same configuration, if its values make sense; UserError names the first that does not."""
        for name in POSITIVE:
            if not getattr(self, name) > 0:
                raise UserError(f"config: {name} = {getattr(self, name)!r} must be greater than 0")
        for name in NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise UserError(f"config: {name} = {getattr(self, name)!r} must be 0 or more")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(f"config: {field.name} = {value!r} must be a finite number")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"config: {name} = {getattr(self, name)!r}; use one of {', '.join(allowed)}")
        if not self.curriculum or any(not 0 <= share <= 1 for share in self.curriculum):
            raise UserError(f"config: curriculum = {self.curriculum!r}; give shares between 0 and 1, one a pass")
        if self.repeat and (len(self.repeat) != len(self.data) or any(n < 1 for n in self.repeat)):
            raise UserError(f"config: repeat = {self.repeat!r}; give one number of 1 or more for each data file")
        if not 0 <= self.warmup <= 1 or not 0 <= self.max_bad_share <= 1:
            raise UserError("config: warmup and max_bad_share are shares between 0 and 1")
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"config: name = {self.name!r} must be a plain directory name")
        if self.rows % self.accumulation:
            raise UserError(f"config: rows = {self.rows} cannot be split into accumulation = {self.accumulation} parts")
        return self


POSITIVE = (
    *("row_length", "levels", "rows", "accumulation", "passes", "learning_rate", "tag_multiplier", "lora_alpha"),
    *("epsilon", "loss_chunk", "steps_per_log", "steps_per_save", "keep"),
    *("profile_steps",),
    *("fsdp", "context_parallel", "context_rounds", "tensor_parallel", "slices"),
)
NOT_NEGATIVE = (
    *("steps", "final_learning_rate", "weight_decay", "beta1", "beta2", "clip", "lora_rank", "seed"),
    *("stop_after", "data_parallel", "z_loss", "keep_every", "max_skipped"),
    *("profile_start", "steps_per_sample"),
)
CHOICES = {
    "form": ("multiverse", "autoregressive"),
    "dtype": ("float32", "bfloat16"),
    "master_dtype": ("float32", "bfloat16"),
    "remat": ("none", "full", "attention", "products"),
    "attention": ("auto", "xla", "tpu", "gpu"),
}


def to_dict(config: TrainConfig) -> dict:
    """The configuration as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def first_difference(old: dict, config: TrainConfig) -> str | None:
    """What keeps `config` from going on with a run that was started with `old`; None where nothing does."""
    for key, value in to_dict(config).items():
        if key not in IDENTITY_FREE and old.get(key, value) != value:
            return f"{key} was {old[key]!r} and is now {value!r}"
    return None
