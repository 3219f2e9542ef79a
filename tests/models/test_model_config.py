"""ModelConfig: Hugging Face dictionaries in and out, and what is refused."""

import json

import pytest

from mvjax.errors import UserError
from mvjax.models import DecoderStepModel, Llama3Scaling, from_hf, to_hf
from mvjax.models.families import FAMILIES
from mvjax.models.hf_config import normalised
from mvjax.models.tensors import expected_shapes, layer_arrays, parameter_count

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
@pytest.mark.parametrize(
    "rope_scaling",
    [
        None,
        LLAMA3,
        {"rope_type": "linear", "factor": 2.5},
        {"rope_type": "yarn", "factor": 4.0},
        {"type": "yarn", "factor": 4.0, "attention_factor": 2.0, "beta_fast": 16, "truncate": False},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "dynamic", "factor": 2.0, "length": 20000},
    ],
)
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
    assert old.rope_scaling == Llama3Scaling(32.0, 1.0, 4.0, 8192)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "model_type"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}, "longrope"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor = '4' should be a positive number"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": -4.0}}, "factor = -4.0 should be a positive number"),
        ({"rope_scaling": {"rope_type": "linear"}}, "linear lacks factor"),
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


@pytest.mark.parametrize(
    ("family", "absent", "wanted"),
    [
        ("qwen3", {"head_dim": None}, {"head_dim": 128}),
        ("qwen2", {"head_dim": None}, {"head_dim": 64}),
        ("llama", {"head_dim": None, "num_key_value_heads": None}, {"head_dim": 64, "num_key_value_heads": 9}),
        ("olmo2", {"rms_norm_eps": None, "max_position_embeddings": None}, {"head_dim": 64}),
    ],
)
def test_absent_keys_mean_the_same_to_the_decoder_and_to_a_file(family, absent, wanted):
    config = SMOLLM2 | {"model_type": family}
    config = {key: value for key, value in config.items() if key not in absent}
    found, file = from_hf(config), normalised(config, "a file")
    assert (found.head_dim, found.kv_heads) == (file["head_dim"], file["num_key_value_heads"])
    assert {key: file[key] for key in wanted} == wanted
    assert from_hf(file) == found
    assert (found.rms_eps == 1e-5) == (family == "olmo2" or "rms_norm_eps" not in absent)


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
def test_biases_of_the_attention_are_read_where_the_family_has_the_key(family):
    config = from_hf(SMOLLM2 | {"model_type": family, "attention_bias": True})
    biased = [name for name in expected_shapes(config) if name.startswith("model.layers.3.") and name.endswith("bias")]
    assert biased == [f"model.layers.3.self_attn.{side}_proj.bias" for side in "qkvo"]
    assert to_hf(config)["attention_bias"] is True
    assert not from_hf(SMOLLM2 | {"model_type": "qwen2", "attention_bias": True}).attention_bias  # no key of its own


def test_a_file_may_ask_for_arithmetic_that_only_the_decoder_refuses():
    config = SMOLLM2 | {"rope_scaling": {"rope_type": "longrope", "factor": 4.0}}
    assert normalised(config, "a file")["rope_scaling"] == config["rope_scaling"]
    with pytest.raises(UserError, match="longrope"):
        from_hf(config)


@pytest.mark.parametrize(
    ("rope_scaling", "reach"),
    [
        (None, 8192),
        (LLAMA3, 8192),
        ({"rope_type": "yarn", "factor": 4.0}, 32768),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}, 8192),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 16384),
        ({"rope_type": "linear", "factor": 2.5}, 20480),
        ({"rope_type": "dynamic", "factor": 2.0}, 8192),
        ({"rope_type": "dynamic", "factor": 2.0, "length": 20000}, 20000),
    ],
)
def test_scaling_lets_positions_go_further(rope_scaling, reach):
    config = from_hf(SMOLLM2 | {"rope_scaling": rope_scaling})
    assert (config.reach, config.max_position) == (reach, 8192)
    assert DecoderStepModel.described(config).max_position == reach


def test_qwen2_5_goes_past_32k_with_the_published_setting():
    """The setting that Qwen2.5's model cards give for long texts."""
    yarn = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
    config = from_hf({**to_hf(FAMILIES["qwen2"].published()["qwen2.5-7b"][0]), "rope_scaling": yarn})
    assert config.reach == 131072
