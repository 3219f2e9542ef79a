"""The decoder: one Flax NNX module for the Llama, Qwen2 and Qwen3 families, its adapters, and its decode step."""

from mvjax.models.checkpoint import from_checkpoint, to_checkpoint
from mvjax.models.config import ModelConfig, RopeScaling
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decoder import Decoder, TagRows
from mvjax.models.lora import (
    TRAINABLE,
    LoraConfig,
    add_lora,
    is_adapted,
    load_adapter,
    merge,
    read_adapter_metadata,
    remove_adapter,
    save_adapter,
)

__all__ = [
    "TRAINABLE",
    "Decoder",
    "DecoderStepModel",
    "LoraConfig",
    "ModelConfig",
    "RopeScaling",
    "TagRows",
    "add_lora",
    "from_checkpoint",
    "is_adapted",
    "load_adapter",
    "merge",
    "read_adapter_metadata",
    "remove_adapter",
    "save_adapter",
    "to_checkpoint",
]
