"""Make the tiny random models under tests/fixtures/models with PyTorch and transformers, and their logits.

Run from the root of the repository, with the `torch` extra installed:

    python tests/models/make_fixtures.py [NAME ...]

Each family gets a directory with config.json, model.safetensors and expected.npz (input ids and transformers' logits).
"""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1] / "fixtures" / "models"

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

MODELS = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    "llama3": {
        "model_type": "llama",
        "tie_word_embeddings": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3,
    },
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
    "qwen2_tied": {"model_type": "qwen2", "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0},
    "qwen3": {
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "head_dim": 16,
    },
    "olmo2": {"model_type": "olmo2", "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "rope_theta": 500000.0},
}

LONG = {"max_position_embeddings": 16, "rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
SCALED = {
    "yarn": LONG | {"rope_scaling": YARN},
    "yarn_counted_in": LONG | {"max_position_embeddings": 64, "rope_scaling": YARN},
    "yarn_settings": LONG
    | {"rope_scaling": YARN | {"beta_fast": 4.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "yarn_attention": LONG | {"rope_scaling": YARN | {"attention_factor": 1.5, "truncate": False}},
    "linear": LONG | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "dynamic": LONG | {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
    "dynamic_within": LONG | {"max_position_embeddings": 40, "rope_scaling": {"rope_type": "dynamic", "factor": 3.0}},
}
"""Changes to the configuration of qwen2 with rotary scaling: the same weights beyond their length."""


def build_scaled(name: str) -> torch.nn.Module:
    """The tiny qwen2 with one of the scalings."""
    model, config = build("qwen2")
    kind = copy.deepcopy(config | SCALED[name])
    scaled = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind.pop("model_type"), **kind), attn_implementation="eager"
    )
    scaled.load_state_dict(model.state_dict())
    return scaled.float().eval()


def build(name: str) -> tuple[torch.nn.Module, dict]:
    """A tiny model of transformers with random weights everywhere (biases and norms too), and its config."""
    config = TINY | MODELS[name]
    torch.manual_seed(sum(map(ord, name)))
    kind = copy.deepcopy(config)  # transformers adds to it
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(kind.pop("model_type"), **kind), attn_implementation="eager"
    )
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if "norm" not in key else 0.2) + ("norm" in key))
    return model.float().eval(), config


def expected(model: torch.nn.Module, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Input ids [2, 40] and the model's logits [2, 40, V]."""
    ids = torch.randint(3, 96, (2, 40), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return ids.numpy().astype(np.int32), model(ids).logits.float().numpy()


def main() -> None:
    for name in set(sys.argv[1:]) - {"scaled"} or (MODELS if len(sys.argv) < 2 else ()):
        model, config = build(name)
        directory = ROOT / name
        directory.mkdir(parents=True, exist_ok=True)
        tensors = {key: tensor.clone().contiguous() for key, tensor in model.state_dict().items()}
        if config["tie_word_embeddings"]:
            tensors.pop("lm_head.weight", None)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        ids, logits = expected(model)
        np.savez_compressed(directory / "expected.npz", ids=ids, logits=logits)
        print(name, sum(file.stat().st_size for file in directory.iterdir()), "bytes")
    if not sys.argv[1:] or "scaled" in sys.argv[1:]:
        arrays = {}
        for name in SCALED:
            ids, logits = expected(build_scaled(name))
            arrays |= {"ids": ids[:1], name: logits[:1]}
        np.savez_compressed(ROOT / "scaled.npz", **arrays)
        (ROOT / "scaled.json").write_text(json.dumps(SCALED, indent=1) + "\n")


if __name__ == "__main__":
    main()
