"""The configuration: every value is checked where it stands, and what a resumed run may change."""

import dataclasses
import json

import numpy as np
import pytest

from mvjax import settings
from mvjax.errors import UserError
from mvjax.training.config import TrainConfig, dotted_name, first_difference, to_dict

FLAT = {
    "name": "old",
    "output": "runs",
    "model": "tiny.gguf",
    "tokenizer": "",
    "data": ["a.jsonl"],
    "form": "multiverse",
    "curriculum": [0.5, 1.0],
    "repeat": [],
    "equal_records": False,
    "tokens": "",
    "max_bad_share": 0.02,
    "row_length": 512,
    "levels": 4,
    "rows": 8,
    "accumulation": 1,
    "steps": 7,
    "passes": 1,
    "learning_rate": 1e-3,
    "final_learning_rate": 0.0,
    "warmup": 0.05,
    "tag_multiplier": 1.0,
    "weight_decay": 1e-4,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "clip": 1.0,
    "lora_rank": 4,
    "lora_alpha": 32.0,
    "lora_targets": ["q_proj"],
    "dtype": "float32",
    "master_dtype": "float32",
    "scan_layers": True,
    "remat": "none",
    "attention": "auto",
    "loss_chunk": 256,
    "z_loss": 0.0,
    "data_parallel": 0,
    "fsdp": 1,
    "context_parallel": 1,
    "context_rounds": 1,
    "tensor_parallel": 1,
    "slices": 1,
    "seed": 3,
    "steps_per_log": 1,
    "steps_per_save": 100,
    "keep": 2,
    "keep_every": 0,
    "max_skipped": 0,
    "tensorboard": True,
    "profile_start": 0,
    "profile_steps": 3,
    "steps_per_sample": 0,
    "sample_prompt": "What?",
    "sample_tokens": 128,
    "stop_after": 0,
}
"""config.json of a run of mvjax 0.1."""
NEW = {"output.patience", "data.format", "data.suffix", "data.transcripts_per_step", "data.tokens_per_step"}
NEW |= {"model.cache", "output.tracker"}
NEW |= {f"held_out.{name}" for name in ("files", "format", "every", "batches", "keep_best")}
"""Fields that it had not."""
SAME = TrainConfig(name="old", seed=3).replace(
    model={"path": "tiny.gguf"},
    lora={"rank": 4, "targets": ("q_proj",)},
    data={"files": ("a.jsonl",), "curriculum": (0.5, 1.0)},
    optimizer={"learning_rate": 1e-3},
    steps={"total": 7},
)
"""The same configuration, in sections."""
FIXED = {
    *("name", "seed", "model.path", "model.tokenizer", "model.dtype", "model.master_dtype", "model.scan_layers"),
    *("lora.rank", "lora.alpha", "lora.targets", "data.files", "data.repeat", "data.form", "data.curriculum"),
    *("data.format", "data.suffix"),
    *("data.equal_records", "data.max_bad_share", "data.row_length", "data.levels", "data.rows", "loss.z_loss"),
    *("optimizer.learning_rate", "optimizer.final_learning_rate", "optimizer.warmup", "optimizer.tag_multiplier"),
    *("optimizer.weight_decay", "optimizer.beta1", "optimizer.beta2", "optimizer.epsilon", "optimizer.clip"),
    *("steps.total", "steps.passes", "steps.max_skipped"),
    *("data.transcripts_per_step", "data.tokens_per_step"),
}
"""What decides the numbers of a run: a resumed one must have the same."""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"rows": 40.5}}, "data.rows = 40.5 must be a whole number, 1 or more"),
        ({"data": {"rows": "40"}}, "data.rows = '40' must be a whole number, 1 or more"),
        ({"data": {"rows": True}}, "data.rows = True must be a whole number"),
        ({"data": {"rows": 0}}, "data.rows = 0 must be a whole number, 1 or more"),
        ({"steps": {"total": 2**31}}, "steps.total = 2147483648 must be a whole number, 0 or more"),
        ({"steps": {"total": -1}}, "steps.total = -1 must be a whole number, 0 or more"),
        ({"steps": {"total": 10**5000}}, "steps.total = a number of 16610 bits must be"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate = nan must be a finite number"),
        ({"optimizer": {"learning_rate": float("inf")}}, "optimizer.learning_rate = inf must be a finite number"),
        (
            {"optimizer": {"learning_rate": 0.0}},
            "optimizer.learning_rate = 0.0 must be a finite number, greater than 0",
        ),
        ({"optimizer": {"learning_rate": "1e-4"}}, "optimizer.learning_rate = '1e-4' must be a finite number"),
        ({"optimizer": {"clip": 10**400}}, "optimizer.clip = a number of 1329 bits must be a finite number"),
        ({"optimizer": {"warmup": 1.5}}, "optimizer.warmup = 1.5 must be a finite number, 0 or more, at most 1"),
        ({"output": {"tensorboard": 1}}, "output.tensorboard = 1 must be True or False"),
        ({"model": {"path": 3}}, "model.path = 3 must be a string"),
        ({"model": {"dtype": "float8"}}, "model.dtype = 'float8' must be one of float32, bfloat16"),
        ({"data": {"files": "a.jsonl"}}, "data.files = 'a.jsonl' must be a tuple, each item a string"),
        ({"data": {"curriculum": (0.5, 2.0)}}, "data.curriculum = (0.5, 2.0) must be a tuple, each item a finite"),
        ({"data": {"curriculum": ()}}, "data.curriculum = () must have a share"),
        ({"data": {"files": ("a",), "repeat": (1, 2)}}, "data.repeat = (1, 2) must have one number for each of the 1"),
        ({"data": {"rows": 8, "accumulation": 3}}, "data.rows = 8 cannot be split into accumulation = 3 parts"),
        ({"mesh": 8}, "mesh = 8 must be a MeshConfig"),
        ({"name": ".a"}, "name = '.a' must be a plain directory name"),
        ({"name": "x" * 200 + "/"}, "must be a plain directory name"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_in_one_line(changes, message):
    with pytest.raises(UserError) as error:
        TrainConfig().replace(**changes).validate()
    assert str(error.value).startswith("config: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_numbers_and_bounds_may_be_reached():
    changes = {"optimizer": {"learning_rate": 1, "warmup": 1, "clip": 0}, "steps": {"total": 2**31 - 1}}
    assert TrainConfig().replace(**changes).validate().optimizer.learning_rate == 1


def test_numpy_numbers_are_numbers():
    config = TrainConfig(seed=np.int64(3)).replace(data={"repeat": (np.int32(2),)}, optimizer={"clip": np.float32(0.5)})
    config = config.replace(data={"files": ("a.jsonl",)}).validate()
    values = json.loads(json.dumps(to_dict(config)))
    assert (values["seed"], values["data"]["repeat"], values["optimizer"]["clip"]) == (3, [2], 0.5)


def other(leaf):
    """A valid value that is not the default."""
    if isinstance(leaf.value, bool):
        return not leaf.value
    if isinstance(leaf.value, str):
        return next((x for x in getattr(leaf.kind, "__args__", ()) if x != leaf.value), "other")
    if isinstance(leaf.value, tuple):
        return (*leaf.value, {"data.repeat": 2, "data.curriculum": 0.5}.get(leaf.name, "other"))
    return leaf.value / 2 if isinstance(leaf.value, float) and leaf.value else leaf.value + 1


@pytest.mark.parametrize("leaf", list(settings.leaves(TrainConfig())), ids=lambda leaf: leaf.name)
def test_what_a_resumed_run_may_change(leaf):
    section, _, name = leaf.name.rpartition(".")
    changed = TrainConfig().replace(**{section: {name: other(leaf)}} if section else {name: other(leaf)})
    assert changed != TrainConfig()
    difference = first_difference(json.loads(json.dumps(to_dict(TrainConfig()))), changed)
    assert (difference or "").startswith(leaf.name) == (leaf.name in FIXED)
    assert (difference is None) == (leaf.name not in FIXED)


def test_a_run_of_mvjax_0_1_is_the_same_run():
    assert first_difference(FLAT, SAME) is None
    assert {dotted_name(name) for name in FLAT} | NEW == {leaf.name for leaf in settings.leaves(SAME)}
    other_batch = SAME.replace(data={"transcripts_per_step": 16})
    assert first_difference(FLAT, other_batch) == "data.transcripts_per_step was 0 and is now 16"
    other_rank = SAME.replace(lora={"rank": 8})
    assert first_difference(FLAT, other_rank) == "lora.rank was 4 and is now 8"
    assert first_difference(FLAT, dataclasses.replace(SAME, seed=4)) == "seed was 3 and is now 4"
    assert first_difference(FLAT, SAME.replace(mesh={"fsdp": 4}, output={"directory": "elsewhere"})) is None
