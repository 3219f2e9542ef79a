"""The configuration of a training run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from mvjax.errors import UserError

IDENTITY_FREE = frozenset({"output", "steps_per_log", "steps_per_save", "keep", "tensorboard", "stop_after"})
"""Fields that a resumed run may change: they do not touch what is computed."""


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
    """Compute type: float32 (what a CPU does best) or bfloat16. Trained parameters and Adam's moments stay float32."""
    scan_layers: bool = True
    """Scan over stacked layers instead of unrolling them: compiles in a fraction of the time, and as fast a step."""
    remat: bool = False
    """Recompute each layer in the backward pass: less memory, a third more work."""
    loss_chunk: int = 256
    """Target tokens whose logits exist at the same time, on each device."""
    devices: int = 0
    """Local devices to spread the rows over; 0: all."""
    seed: int = 0
    """Seed of the data order and of the new parameters."""

    steps_per_log: int = 1
    """Steps between two lines of metrics."""
    steps_per_save: int = 100
    """Steps between two checkpoints."""
    keep: int = 2
    """Checkpoints kept, the newest ones."""
    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""
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
        if self.form not in ("multiverse", "autoregressive"):
            raise UserError(f"config: form = {self.form!r}; use multiverse or autoregressive")
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"config: dtype = {self.dtype!r}; use float32 or bfloat16")
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
)
NOT_NEGATIVE = (
    *("steps", "final_learning_rate", "weight_decay", "beta1", "beta2", "clip", "lora_rank", "devices", "seed"),
    "stop_after",
)


def to_dict(config: TrainConfig) -> dict:
    """The configuration as plain JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


def first_difference(old: dict, config: TrainConfig) -> str | None:
    """What keeps `config` from going on with a run that was started with `old`; None where nothing does."""
    for key, value in to_dict(config).items():
        if key not in IDENTITY_FREE and old.get(key, value) != value:
            return f"{key} was {old[key]!r} and is now {value!r}"
    return None
