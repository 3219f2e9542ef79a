"""From files to something that generates: tokenizer, weights, control tags, adapter."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import jax.numpy as jnp

from mvjax.errors import UserError
from mvjax.models.checkpoint import from_checkpoint
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decoder import Decoder
from mvjax.models.lora import merge
from mvjax.tokenizers import Tokenizer, load_tokenizer
from mvjax.weights import load_checkpoint, with_tag_rows


def load_with_tags(path: Path, *, adapter: Path | None = None, **options) -> tuple[Tokenizer, Decoder]:
    """A tokenizer with the control tags and a decoder with a row for each, the adapter (if any) not merged yet.

    Args:
        path: a GGUF file, a Hugging Face directory or an Orbax directory, its tokenizer beside or inside it.
        adapter: a file of `save_adapter`.
        options: as for `from_checkpoint` (dtype, param_dtype, scan_layers, remat, backend).

    Raises:
        UserError: a file is missing, damaged or does not belong to the others.
    """
    checkpoint, tokenizer = with_tag_rows(load_checkpoint(path), load_tokenizer(path))
    decoder = from_checkpoint(checkpoint, **options)
    if adapter is not None:
        from mvjax.models.lora import load_adapter

        load_adapter(adapter, decoder, tokenizer=tokenizer.fingerprint)
    return tokenizer, decoder


def load_for_generation(path: Path, adapter: Path | None = None, dtype=None) -> tuple[Tokenizer, DecoderStepModel]:
    """A tokenizer and the engine's model, the adapter merged.

    dtype: of weights and K/V; None picks float32 on CPU (bfloat16 is slower there) and bfloat16 elsewhere.
    """
    import jax

    on_cpu = jax.default_backend() == "cpu"
    dtype = dtype or (jnp.float32 if on_cpu else jnp.bfloat16)
    tokenizer, decoder = load_with_tags(path, adapter=adapter, dtype=dtype, param_dtype=dtype, scan_layers=not on_cpu)
    if adapter is not None:
        merge(decoder)
    return tokenizer, DecoderStepModel(decoder)


def demo_adapter() -> Path:
    """The adapter that ships with the package; UserError where it is missing."""
    path = Path(str(resources.files("mvjax") / "assets" / "demo-adapter.safetensors"))
    if not path.exists():
        raise UserError(f"{path}: the demo's adapter is not there; train it with mvjax train configs/demo.py")
    return path
