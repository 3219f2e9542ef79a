"""What a run has trained, read from one of its checkpoints a tensor at a time: to export it, and to answer with it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from mvjax.errors import UserError
from mvjax.hub import Source, as_written, resolve
from mvjax.hub.cache import NAMED
from mvjax.hub.choose import Kind
from mvjax.models import Adapter, DecoderStepModel, LoraConfig, load_checkpoint, merge_adapter
from mvjax.models.adapter import adapter_shapes
from mvjax.models.config import ModelConfig
from mvjax.models.hf_config import normalised, read
from mvjax.models.load import step_model
from mvjax.models.tensors import expected_shapes, hf_names, is_stacked
from mvjax.storage import StoragePath
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.training.checkpoints import BEST, CHECKPOINTS, COMMITTED, RECORD, STATE
from mvjax.training.config import values_of
from mvjax.training.run_config import CONFIG, ORIGINS, read_config
from mvjax.training.verified import verified
from mvjax.weights import Checkpoint, with_tag_rows
from mvjax.weights.checkpoint import LazyTensor, LazyTensors
from mvjax.weights.huggingface import with_configs
from mvjax.weights.orbax import read_tree

PARAMETER = re.compile(r"\.params\['(.+)'\]")
"""Names of the trained parameters among the arrays of a checkpoint (`checkpoints.named_arrays`)."""


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint of a run, with the model that the run began from. Weights are read when asked for."""

    name: str
    """Of the run."""
    step: int
    """Steps that it has done."""
    place: StoragePath
    """The checkpoint."""
    base: Checkpoint
    """The model that it began from, with rows for the control tags."""
    origin: str
    """Which that was: REPOSITORY@COMMIT, or a path."""
    rows: int
    """Rows of the vocabulary that the base model has without the control tags."""
    tokenizer: Tokenizer
    """With the control tags."""
    shape: ModelConfig
    """Of the model with rows for them."""
    adapter: Adapter | None
    """What was trained, where that is an adapter."""
    tensors: Mapping[str, LazyTensor]
    """All weights, where all were trained; in the type that they were trained in."""

    fingerprint: str
    """Of the trained weights: the same for the same numbers."""

    @property
    def how(self) -> str:
        """The training in words, for a model card."""
        return f"{self.step} steps of {self.name}"

    def checkpoint(self) -> Checkpoint:
        """The whole model, an adapter merged, with the base model's configuration; nothing is rounded yet."""
        if self.adapter is not None:
            return merge_adapter(self.base, self.adapter)
        return dataclasses.replace(self.base, tensors=LazyTensors(self.tensors), source=str(self.place))


def is_run(path: str | os.PathLike) -> bool:
    """Whether a path or an address is a run's directory, one of its checkpoints, or the directory of these."""
    text = as_written(path)
    return not text.startswith(("hf://", "http:", "https:")) and bool(find_checkpoints(StoragePath(text))[1])


def find_checkpoints(place: StoragePath) -> tuple[StoragePath, dict[int, StoragePath]]:
    """The directory of the run that a path belongs to, and the complete checkpoints there by their steps, rising."""
    if (place / RECORD / "metadata").is_file() and place.name.isdecimal():
        return place.parent.parent, {int(place.name): place}
    inside = place if place.name == CHECKPOINTS else place / CHECKPOINTS
    if place.local is None:
        ends = (name.partition("/") for name in inside.walk())
        names = {step for step, _, name in ends if name == COMMITTED}
    else:
        names = {child.name for child in inside.children() if (child / STATE).is_dir()}
    steps = sorted(int(name) for name in names if name.isdecimal())
    return inside.parent, {step: inside / str(step) for step in steps}


def open_trained(
    path: str | os.PathLike,
    step: str = "latest",
    *,
    base: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    merging: bool = True,
) -> TrainedModel:
    """Open a run or one of its checkpoints.

    Args:
        path: of the run's directory or of a checkpoint, local or in a bucket.
        step: which checkpoint of a run: "latest", "best" (the least loss on held-out text), or the number of a step.
        base, tokenizer: where the model and the tokenizer that it began from are now, if not where the run says.
        merging: an adapter is going to be merged. Otherwise the base model's weights are not needed and, where they
            are on the hub or in a bucket, not fetched.
    Raises:
        UserError: there is no such checkpoint, or the base model or its tokenizer are absent or others.
    """
    run, there = find_checkpoints(StoragePath(as_written(path)))
    if not there:
        raise UserError(f"{path}: is no run of `mvjax train`, or has no checkpoint yet")
    place = there[choose_step(path, step, there)]
    record = read_record(place)
    values = values_of(record["config"])
    commits = commits_of(run)
    adapted = bool(values["lora.rank"])
    saved = {key: value for key, value in record["fingerprints"].items() if PARAMETER.fullmatch(key)}
    find = partial(find_base, run, values, commits)
    untied = any("lm_head/" in key for key in saved)
    model, plain = open_base(partial(find, "model.path", base), adapted, adapted and merging, untied)
    words = model
    if tokenizer is not None or (base is None and values["model.tokenizer"]):
        words = find("model.tokenizer", tokenizer, "tokenizer")
    checkpoint, tagged = with_tag_rows(plain, load_tokenizer(words.path))
    trained_with = record["belongs_to"].get("tokenizer", tagged.fingerprint)
    if trained_with != tagged.fingerprint:
        raise UserError(f"{words.name}: is another tokenizer than that of {run}: name that with --tokenizer")
    shape = dataclasses.replace(read(checkpoint.config, model.name), scan_layers=values["model.scan_layers"])
    arrays = read_tree(place / STATE)
    if absent := next((key for key in saved if key not in arrays), None):
        raise UserError(f"{place}: the checkpoint is damaged: {absent} is absent; name another one")
    tensors = named_tensors({key: verified(arrays[key], saved[key], f"{place}: {key}") for key in saved}, shape)
    adapter, expected = None, expected_shapes(shape)
    if adapted:
        lora = LoraConfig(
            values["lora.rank"], values["lora.alpha"], tuple(values["lora.targets"]), tuple(tagged.tag_ids or ())
        )
        expected = adapter_shapes(shape, lora)
        facts = {"tokenizer": tagged.fingerprint, "run": values["name"], "steps": str(record["step"])}
        facts |= {"base_model": model.pinned} if model.repository else {}
        adapter = Adapter(lora, tensors, shape.shape(), facts, place)
    check_shapes(f"{model.name}: is not the model that {run} began with", tensors, expected)
    return TrainedModel(
        values["name"],
        int(record["step"]),
        place,
        checkpoint,
        model.pinned,
        plain.config["vocab_size"],
        tagged,
        shape,
        adapter,
        {} if adapter else tensors,
        digest(saved),
    )


def load_run(
    path: str | os.PathLike,
    step: str = "latest",
    *,
    adapter: str | os.PathLike | None = None,
    tokenizer: str | os.PathLike | None = None,
    **options: Any,
) -> tuple[TrainedModel, DecoderStepModel]:
    """A run's checkpoint and the engine's model of it.

    Args:
        path, step, tokenizer: as for `open_trained`.
        adapter: an adapter that the user names beside it, which is refused.
        options: tensor_parallel, weight_dtype and kv_dtype, as for `load_for_generation`.
    """
    if adapter is not None:
        raise UserError(f"{path}: is a run and brings what it has trained: leave --adapter out")
    trained = open_trained(path, step, tokenizer=tokenizer)
    return trained, step_model(trained.checkpoint(), **options)


def choose_step(path: str | os.PathLike, step: str, there: Mapping[int, StoragePath]) -> int:
    """The step of the checkpoint that is asked for, see `open_trained`."""
    if step == "latest":
        return max(there)
    best = (read_record(there[max(there)])[BEST] or {}).get("step")
    if step == "best" and best is None:
        raise UserError(f"{path}: no checkpoint is known as the best: the run has no held_out.files, or none was kept")
    chosen = best if step == "best" else int(step) if step.isdecimal() else None
    if chosen not in there:
        known = ", ".join(map(str, there))
        others = "latest" if best is None else "latest and best"
        raise UserError(f"{path}: has no checkpoint {step!r}; there are those of the steps {known}, and {others}")
    return chosen


def check_shapes(where: str, tensors: Mapping[str, LazyTensor], expected: Mapping[str, tuple[int, ...]]) -> None:
    """UserError, which begins with `where`, for tensors that are not those of the base model's configuration."""
    for name in {**expected, **tensors}:
        found = tensors[name].shape if name in tensors else None
        if found != expected.get(name):
            raise UserError(
                f"{where}: {name} is {found or 'absent'} in the run, {expected.get(name) or 'absent'} by the model's "
                "configuration; name that model with --base"
            )


def read_record(place: StoragePath) -> dict[str, Any]:
    """The record of a checkpoint (`Checkpoints.save`); UserError where it is damaged."""
    try:
        record = json.loads((place / RECORD / "metadata").read_text())
        fields = {key: record[key] for key in ("config", "step", "belongs_to", "fingerprints")}
        return fields | {BEST: record.get(BEST)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place}: the checkpoint is damaged ({type(error).__name__}); name another one") from error


def digest(fingerprints: Mapping[str, int]) -> str:
    """One fingerprint of the fingerprints of arrays."""
    return hashlib.sha256(json.dumps(fingerprints, sort_keys=True).encode()).hexdigest()[:16]


def commits_of(run: StoragePath) -> Mapping[str, str]:
    """The commits that a run began with; none where a checkpoint lies alone."""
    return (read_config(run) or {}).get(ORIGINS) or {} if (run / CONFIG).is_file() else {}


def find_base(
    run: StoragePath,
    values: Mapping[str, Any],
    commits: Mapping[str, str],
    field: str,
    given: str | os.PathLike | None,
    kind: Kind,
) -> Source:
    """What is needed of the base model or its tokenizer: where the user says, else as the run has it, at the commit it
    began with."""
    what, option = ("model", "--base") if field == "model.path" else ("tokenizer", "--tokenizer")
    name = values[field] if given is None else given
    commit = "" if given is not None else commits.get(field, "").rpartition("@")[2]
    source = resolve(name, kind, cache=NAMED.get() or values["model.cache"], commit=commit)
    if not source.path.exists():
        raise UserError(f"{source.path}: the {what} that {run} began with is not here; name it with {option}")
    return source


def open_base(find: Callable[[Kind], Source], adapted: bool, merging: bool, untied: bool) -> tuple[Source, Checkpoint]:
    """The base model. Where it is on the hub or in a bucket its weights are fetched only to merge an adapter into them;
    also where all weights were trained and the base model's configuration does not say of which type its own are.

    Args:
        find: where what is needed of it is.
        adapted, merging: an adapter was trained, and is to be merged.
        untied: the run says that it has an output matrix of its own.
    """
    source = find("model" if merging else "config")
    if not merging and (source.repository or source.address) and source.path.is_dir():
        plain = with_configs(source.path, {})
        if plain.config.get("tie_word_embeddings") is None:
            plain = dataclasses.replace(plain, config={**plain.config, "tie_word_embeddings": not untied})
        config = normalised(plain.config, source.path / "config.json")
        if adapted or config.get("torch_dtype"):
            return source, dataclasses.replace(plain, config=config)
        source = find("model")
    return source, load_checkpoint(source.path)


def named_tensors(arrays: Mapping[str, LazyTensor], config: ModelConfig) -> dict[str, LazyTensor]:
    """The trained parameters of a checkpoint under their Hugging Face names, a tensor for each layer.

    Stacked layers follow one another, so that what of a file was read for one serves the next.
    """
    tensors = {}
    for key, entry in arrays.items():
        match = PARAMETER.fullmatch(key)
        assert match is not None
        path = tuple(match[1].split("/"))
        for layer, name in enumerate(hf_names(path, config)):
            tensors[name] = layer_of(entry, layer) if is_stacked(path, config) else entry
    return tensors


def layer_of(entry: LazyTensor, layer: int) -> LazyTensor:
    """One layer of a stacked array."""
    read_rows = entry.read_rows
    assert read_rows is not None
    return LazyTensor(entry.shape[1:], entry.dtype, lambda: read_rows(layer, layer + 1)[0])
