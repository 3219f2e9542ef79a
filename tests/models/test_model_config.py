"""ModelConfig: Hugging Face dictionaries in and out, and what is refused."""

import json

import pytest

from mvjax.errors import UserError
from mvjax.models import RopeScaling, from_hf, to_hf
from mvjax.models.families import FAMILIES
from mvjax.models.tensors import layer_arrays, parameter_count

SMOLLM2 = {
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_smollm2_is_read():
    config = from_hf(SMOLLM2)
    assert (config.head_dim, config.group, config.tied) == (64, 3, True)
    assert not [array for array in layer_arrays(config) if array.kind == "bias" or "q_norm" in array.module]
    assert parameter_count(config) == 134_515_008
    assert config.eos == (2,)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rope_scaling", [None, LLAMA3])
@pytest.mark.parametrize("eos", [None, 7, [7, 9]])
def test_round_trip(family, rope_scaling, eos):
    config = from_hf(SMOLLM2 | {"model_type": family, "rope_scaling": rope_scaling, "eos_token_id": eos})
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config
    names = {array.name for array in layer_arrays(config)}
    assert ("self_attn.q_proj.bias" in names) == (family == "qwen2")
    assert ("self_attn.q_norm.weight" in names) == (family in ("qwen3", "olmo2"))


def test_rope_parameters_of_transformers_5():
    old = from_hf(SMOLLM2 | {"rope_theta": 500000.0, "rope_scaling": LLAMA3})
    new = {key: value for key, value in SMOLLM2.items() if key != "rope_theta"}
    new["rope_parameters"] = LLAMA3 | {"rope_theta": 500000.0}
    assert from_hf(new) == old
    assert old.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_key_value_heads": 2}, "9 heads"),
        ({"head_dim": 63}, "odd"),
        ({"vocab_size": -5}, "vocab_size"),
    ],
)
def test_unsupported_models_are_refused_by_name(change, named):
    with pytest.raises(UserError, match=named):
        from_hf(SMOLLM2 | change)
