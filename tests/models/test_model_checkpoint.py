"""Decoders from and to checkpoints, and the errors for files that do not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.errors import UserError
from mvjax.models import from_checkpoint, to_checkpoint

NAMES = ["llama", "llama3", "qwen2", "qwen2_tied", "qwen3", "olmo2"]


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_round_trip_is_exact(name, scan_layers, fixture_checkpoint):
    checkpoint = fixture_checkpoint(name)
    back = to_checkpoint(from_checkpoint(checkpoint, scan_layers=scan_layers))
    assert set(back.tensors) == set(checkpoint.tensors)
    for key, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(back.tensors[key], tensor)
    for key, value in checkpoint.config.items():
        assert back.config[key] == value, key


def test_bfloat16_weights_come_back_as_bfloat16(fixture_checkpoint):
    back = to_checkpoint(from_checkpoint(fixture_checkpoint("qwen2"), param_dtype=jnp.bfloat16))
    assert {str(tensor.dtype) for tensor in back.tensors.values()} == {"bfloat16"}
    assert back.config["torch_dtype"] == "bfloat16"


def test_tensors_that_follow_from_the_config_are_ignored(fixture_checkpoint):
    checkpoint = fixture_checkpoint("llama")
    checkpoint.tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(4, np.float32)
    checkpoint.tensors["lm_head.weight"] = checkpoint.tensors["model.embed_tokens.weight"]  # tied, yet stored
    from_checkpoint(checkpoint)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize(
    ("name", "damage", "named"),
    [
        ("llama", lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.up_proj.weight"),
        ("qwen2", lambda t: t.pop("model.layers.0.self_attn.q_proj.bias"), "q_proj.bias"),
        ("llama3", lambda t: t.pop("lm_head.weight"), "lm_head.weight"),
        ("llama", lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.zeros((2, 2))}), "model.layers.2"),
        ("llama", lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.zeros(2)}), "q_proj.bias"),
        ("qwen3", lambda t: t.update({"model.norm.weight": np.zeros(31, np.float32)}), r"norm.*\(31,\).*\(32,\)"),
        (
            "qwen3",
            lambda t: t.update({"model.layers.1.mlp.up_proj.weight": np.zeros((32, 48), np.float32)}),
            r"layers.1.mlp.*\(32, 48\).*\(48, 32\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(name, damage, named, scan_layers, fixture_checkpoint):
    checkpoint = fixture_checkpoint(name)
    damage(checkpoint.tensors)
    with pytest.raises(UserError, match=named):
        from_checkpoint(checkpoint, scan_layers=scan_layers)
