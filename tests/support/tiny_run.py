"""A run of training as it lies on the disk, made without a training step: parameters that differ from their start."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mvjax.models import LoraConfig, add_lora, from_checkpoint, load_checkpoint
from mvjax.tokenizers import load_tokenizer
from mvjax.training.checkpoints import Checkpoints
from mvjax.training.config import TrainConfig, to_dict
from mvjax.training.model import TrainableModel, TrainState, make_trainable
from mvjax.training.run_config import write_config
from mvjax.weights import with_tag_rows


def write_run(config: TrainConfig, steps: tuple[int, ...] = (3,)) -> tuple[Path, TrainableModel, dict[str, jax.Array]]:
    """Write the run of a configuration, with a checkpoint at each step; its directory, model and last parameters."""
    tokenizer = load_tokenizer(config.model.tokenizer or config.model.path)
    checkpoint, tagged = with_tag_rows(load_checkpoint(config.model.path), tokenizer)
    decoder = from_checkpoint(checkpoint, scan_layers=config.model.scan_layers)
    if config.lora.rank:
        add_lora(decoder, LoraConfig(config.lora.rank, config.lora.alpha, config.lora.targets, tagged.tag_ids or ()))
    model = make_trainable(decoder, tagged.tag_ids or ())
    run, params = Path(config.output.directory) / config.name, {}
    run.mkdir(parents=True)
    write_config(run, config, None)
    checkpoints = Checkpoints(run / "checkpoints", keep=len(steps))
    for step in steps:
        rng = np.random.default_rng(step)
        params = {
            name: jnp.asarray(np.asarray(x) + 0.02 * rng.standard_normal(x.shape), x.dtype)
            for name, x in model.params.items()
        }
        record = {"config": to_dict(config), "belongs_to": {"tokenizer": tagged.fingerprint}}
        checkpoints.save(TrainState(jnp.int32(step), params, {"mu": params}), record)
        checkpoints.wait()
    checkpoints.close()
    return run, model, params
