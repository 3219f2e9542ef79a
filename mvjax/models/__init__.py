"""The decoder: one Flax NNX module for all families, its adapters, its decode step, and models from and to files."""

from mvjax.models.adapter import Adapter, merge_adapter
from mvjax.models.adapter_files import adapter_of, load_adapter, read_adapter, save_adapter
from mvjax.models.checkpoint import from_checkpoint, to_checkpoint
from mvjax.models.config import ModelConfig
from mvjax.models.decode import DecoderStepModel
from mvjax.models.decoder import Decoder, TagRows
from mvjax.models.export import save_checkpoint
from mvjax.models.hf_config import from_hf, to_hf
from mvjax.models.load import load_checkpoint
from mvjax.models.lora import (
    TRAINABLE,
    LoraConfig,
    add_lora,
    is_adapted,
    merge,
    remove_adapter,
)
from mvjax.models.rope_scaling import DynamicScaling, LinearScaling, Llama3Scaling, YarnScaling
from mvjax.models.tensor_parallel import TensorParallelModel

__all__ = [
    "TRAINABLE",
    "Adapter",
    "Decoder",
    "DecoderStepModel",
    "DynamicScaling",
    "LinearScaling",
    "Llama3Scaling",
    "LoraConfig",
    "ModelConfig",
    "TagRows",
    "TensorParallelModel",
    "YarnScaling",
    "adapter_of",
    "add_lora",
    "from_checkpoint",
    "from_hf",
    "is_adapted",
    "load_adapter",
    "load_checkpoint",
    "merge",
    "merge_adapter",
    "read_adapter",
    "remove_adapter",
    "save_adapter",
    "save_checkpoint",
    "to_checkpoint",
    "to_hf",
]
