"""Decoders from and to checkpoints under Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from mvjax.models.decoder import Decoder
from mvjax.models.export import gathered
from mvjax.models.hf_config import from_hf, to_hf
from mvjax.models.lora import is_adapted, merge
from mvjax.models.placement import Placement
from mvjax.models.sharded_loading import load_sharded
from mvjax.weights import Checkpoint


def from_checkpoint(
    checkpoint: Checkpoint,
    *,
    scan_layers: bool = True,
    placement: Placement | None = None,
    progress: Callable[[str, int], None] | None = None,
    **options: Any,
) -> Decoder:
    """A Decoder with the checkpoint's weights.

    scan_layers: stack the blocks and scan over them. placement, options (dtype, param_dtype, remat, backend): as for
    Decoder. With a placement the weights go straight to where they lie on its mesh, each process reads its own part.
    progress: as for `load_sharded`.
    Raises UserError where the config is unsupported or tensors are missing, superfluous or misshapen.
    """
    config = from_hf(checkpoint.config, scan_layers=scan_layers)
    blank = nnx.eval_shape(lambda: Decoder(config, placement=placement, **options, rngs=nnx.Rngs(params=0)))
    graphdef, state = nnx.split(blank)
    places = None
    if placement is not None:
        flat = nnx.to_flat_state(state)
        for path, variable in flat:
            placement.check(".".join(map(str, path)), variable.shape, variable.axes)
        places = {path: placement.sharding(variable.axes) for path, variable in flat}
    return nnx.merge(graphdef, load_sharded(checkpoint, state, places, config=config, progress=progress))


def to_checkpoint(decoder: Decoder, *, source: str = "decoder") -> Checkpoint:
    """The decoder's weights under Hugging Face names, adapters and tag rows merged; the decoder is left as it is.

    The tensors are read from the decoder's arrays when they are asked for, as `gathered` says.
    """
    if is_adapted(decoder):
        decoder = merge(nnx.clone(decoder))
    tensors = gathered(nnx.state(decoder, nnx.Param), decoder.config)
    config = to_hf(decoder.config) | {"torch_dtype": str(decoder.embed_tokens.weight.dtype)}
    return Checkpoint(config=config, tensors=tensors, source=source)
