"""Decoders from and to checkpoints under Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx

from mvjax.models.decoder import Decoder
from mvjax.models.hf_config import from_hf, to_hf
from mvjax.models.lora import is_adapted, merge
from mvjax.models.placement import Placement
from mvjax.models.sharded_loading import load_sharded
from mvjax.models.tensors import hf_names, is_stacked
from mvjax.weights import Checkpoint


def from_checkpoint(
    checkpoint: Checkpoint,
    *,
    dtype=jnp.float32,
    param_dtype=jnp.float32,
    scan_layers: bool = True,
    remat: str = "none",
    backend: str = "auto",
    placement: Placement | None = None,
    progress: Callable[[str, int], None] | None = None,
) -> Decoder:
    """A Decoder with the checkpoint's weights.

    dtype, param_dtype, remat, backend, placement: as for Decoder. scan_layers: stack the blocks and scan over them.
    With a placement the weights go straight to where they lie on its mesh, each process reads its own part.
    progress: as for `load_sharded`.
    Raises UserError where the config is unsupported or tensors are missing, superfluous or misshapen.
    """
    config = from_hf(checkpoint.config, scan_layers=scan_layers)
    options = {"dtype": dtype, "param_dtype": param_dtype, "remat": remat, "backend": backend, "placement": placement}
    blank = nnx.eval_shape(lambda: Decoder(config, **options, rngs=nnx.Rngs(params=0)))
    graphdef, state = nnx.split(blank)
    places = None
    if placement is not None:
        flat = nnx.to_flat_state(state)
        for path, variable in flat:
            placement.check(".".join(map(str, path)), variable.shape, variable.axes)
        places = {path: placement.sharding(variable.axes) for path, variable in flat}
    return nnx.merge(graphdef, load_sharded(checkpoint, state, places, config=config, progress=progress))


def to_checkpoint(decoder: Decoder, *, source: str = "decoder") -> Checkpoint:
    """The decoder's weights under Hugging Face names, adapters and tag rows merged; the decoder is left as it is."""
    if is_adapted(decoder):
        decoder = merge(nnx.clone(decoder))
    tensors = {}
    for path, variable in nnx.to_flat_state(nnx.state(decoder, nnx.Param)):
        names = hf_names(path, decoder.config)
        whole = np.asarray(variable[...])
        tensors |= zip(names, whole if is_stacked(path, decoder.config) else [whole])
    config = to_hf(decoder.config) | {"torch_dtype": str(next(iter(tensors.values())).dtype)}
    return Checkpoint(config=config, tensors=tensors, source=source)
