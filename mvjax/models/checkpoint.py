"""Decoders from and to checkpoints under Hugging Face names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.decoder import Decoder, hf_names
from mvjax.models.lora import is_adapted, merge

if TYPE_CHECKING:
    from mvjax.weights import Checkpoint

# Tensors that some checkpoints carry beside the parameters; they follow from the config.
DERIVED = ("rotary_emb.inv_freq", "attn.masked_bias")


def from_checkpoint(
    checkpoint: Checkpoint,
    *,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
    scan_layers: bool = True,
    remat: bool = False,
    backend: str = "auto",
) -> Decoder:
    """A Decoder with the checkpoint's weights.

    dtype, param_dtype, remat, backend: as for Decoder. scan_layers: stack the blocks and scan over them.
    Raises UserError where the config is unsupported or tensors are missing, superfluous or misshapen.
    """
    config = ModelConfig.from_hf(checkpoint.config, scan_layers=scan_layers)
    source = getattr(checkpoint, "source", "checkpoint")
    blank = nnx.eval_shape(
        lambda: Decoder(
            config, dtype=dtype, param_dtype=param_dtype, remat=remat, backend=backend, rngs=nnx.Rngs(params=0)
        )
    )
    graphdef, state = nnx.split(blank)
    names = {path: hf_names(path, config) for path, _ in nnx.to_flat_state(state)}
    check_names({name for group in names.values() for name in group}, checkpoint, config, source)

    def read(path, variable):
        shape = variable.shape if len(names[path]) == 1 else variable.shape[1:]
        arrays = [np.asarray(checkpoint.tensors[name]) for name in names[path]]
        for name, array in zip(names[path], arrays):
            if array.shape != tuple(shape):
                raise UserError(
                    f"{source}: {name} has shape {list(array.shape)}, the config asks for {list(shape)}; "
                    "the file and its config do not belong together"
                )
        whole = arrays[0] if shape == variable.shape else np.stack(arrays)
        return variable.replace(jnp.asarray(whole, dtype=variable.dtype))

    return nnx.merge(graphdef, nnx.map_state(read, state))


def check_names(wanted: set[str], checkpoint: Checkpoint, config: ModelConfig, source) -> None:
    """Raise UserError when tensors are missing, or present that the model would ignore."""
    found = set(checkpoint.tensors)
    missing = sorted(wanted - found)
    if missing:
        raise UserError(
            f"{source}: {len(missing)} tensors are missing, {missing[0]} first; "
            f"the file is incomplete or no {config.family} model"
        )
    extra = sorted(name for name in found - wanted if not name.endswith(DERIVED))
    if config.tied:
        extra = [name for name in extra if name != "lm_head.weight"]
    if extra:
        raise UserError(
            f"{source}: {len(extra)} tensors have no place in a {config.family} model of {config.layers} layers, "
            f"{extra[0]} first; check model_type and num_hidden_layers in its config"
        )


def to_checkpoint(decoder: Decoder, *, source: str = "decoder") -> Checkpoint:
    """The decoder's weights under Hugging Face names, adapters and tag rows merged; the decoder is left as it is."""
    from mvjax.weights import Checkpoint

    if is_adapted(decoder):
        decoder = merge(nnx.clone(decoder))
    tensors = {}
    for path, variable in nnx.to_flat_state(nnx.state(decoder, nnx.Param)):
        names = hf_names(path, decoder.config)
        whole = np.asarray(variable[...])
        stacked = path[0] == "layers" and decoder.config.scan_layers
        tensors |= zip(names, whole if stacked else [whole])
    config = decoder.config.to_hf() | {"torch_dtype": str(next(iter(tensors.values())).dtype)}
    return Checkpoint(config=config, tensors=tensors, source=source)
