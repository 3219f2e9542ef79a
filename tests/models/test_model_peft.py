"""Adapters of PEFT: what is read, and what is refused by its name."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mvjax.errors import UserError
from mvjax.models import Adapter, LoraConfig, load_adapter, merge_adapter, read_adapter
from mvjax.models.adapter import adapter_shapes
from mvjax.models.hf_config import read
from mvjax.models.peft import write_peft
from mvjax.weights import Checkpoint, lazily
from mvjax.weights.tensor_file import read_tensor_file

CONFIG = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIG |= {"num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48}
TAGS = (5, 9, 60)


def adapter(tied=True, **changes):
    """A random one for the model of CONFIG."""
    lora = LoraConfig(**({"rank": 3, "alpha": 6.0, "targets": ("q_proj", "up_proj"), "tag_ids": TAGS} | changes))
    rng = np.random.default_rng(0)
    shapes = adapter_shapes(read(CONFIG | {"tie_word_embeddings": tied}, "tiny"), lora)
    return Adapter(lora, lazily({name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}))


@pytest.fixture
def folder(tmp_path):
    """The directory of an adapter, and a function that changes its settings."""
    write_peft(tmp_path, adapter(), "owner/base@c0ffee")

    def change(**changes):
        file = tmp_path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return tmp_path

    return change


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tags", [TAGS, ()])
def test_what_is_written_is_read_again(tmp_path, tied, tags):
    before = adapter(tied, tag_ids=tags)
    write_peft(tmp_path, before, "some/path")
    for path in (tmp_path, tmp_path / "adapter_model.safetensors"):
        after = read_adapter(path)
        assert after.lora == before.lora
        assert after.tensors.keys() == before.tensors.keys()
        for name, entry in before.tensors.items():
            np.testing.assert_array_equal(after.tensors[name].read(), entry.read())


def test_the_base_model_s_commit_is_kept(folder):
    settings = json.loads((folder() / "adapter_config.json").read_text())
    assert (settings["base_model_name_or_path"], settings["revision"]) == ("owner/base", "c0ffee")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"use_dora": True}, "use_dora = True is not supported"),
        ({"use_rslora": True}, "use_rslora"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"a_key_of_next_year": 1}, "a_key_of_next_year"),
        ({"peft_type": "IA3"}, "peft_type IA3 is not supported, only LORA"),
        ({"init_lora_weights": "pissa"}, "'pissa' changes the base model"),
        ({"trainable_token_indices": {"embed_tokens": [1], "lm_head": [2]}}, "other tokens for embed_tokens than"),
        ({"r": None}, "adapter_config.json: TypeError"),
    ],
)
def test_what_is_not_served_is_refused_by_name(folder, changes, named):
    with pytest.raises(UserError, match=named):
        read_adapter(folder(**changes))


def test_harmless_settings_are_not(folder):
    plain = {"lora_dropout": 0.1, "init_lora_weights": "gaussian", "exclude_modules": ["v_proj"], "bias": "none"}
    assert read_adapter(folder(**plain, task_type="CAUSAL_LM", use_dora=False)).lora.rank == 3


def test_tensors_of_other_layers_are_refused(folder):
    directory = folder()
    tensors = load_file(directory / "adapter_model.safetensors")
    for name, named in {
        "base_model.model.model.embed_tokens.weight": r"holds base_model\.model\.model\.embed_tokens\.weight",
        "base_model.model.model.layers.0.self_attn.rotary.lora_A.weight": "adapts rotary",
    }.items():
        save_file(tensors | {name: np.zeros((2, 2), np.float32)}, directory / "adapter_model.safetensors")
        with pytest.raises(UserError, match=named):
            read_adapter(directory)
    (directory / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors; save the adapter with safe_serialization"):
        read_adapter(directory)


def test_an_adapter_of_another_model_is_refused(folder, tiny):
    for changes, named in (({"ffn": 64}, "up_proj"), ({"layers": 3}, r"layers\.2"), ({"embed": 48}, "q_proj")):
        with pytest.raises(UserError, match=named):
            load_adapter(folder(), tiny(**changes))
    with pytest.raises(UserError, match="rank 0"):
        write_peft(folder(), adapter(rank=0), "base")


def test_merging_adds_the_update_and_replaces_the_rows(tmp_path):
    """Reads of a few rows, of a part and of the whole agree, whatever type the base model has."""
    found = adapter()
    rng = np.random.default_rng(1)
    names = {"model.embed_tokens.weight": (64, 32), "model.layers.0.mlp.up_proj.weight": (48, 32)}
    names |= {name.replace(".lora_a", ".weight"): (32, 32) for name in found.tensors if "q_proj.lora_a" in name}
    names |= {"model.layers.1.mlp.up_proj.weight": (48, 32), "model.norm.weight": (32,)}
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}
    base = Checkpoint(CONFIG | {"tie_word_embeddings": True}, arrays).astype("bfloat16")
    merged = lazily(merge_adapter(base, found).tensors)
    up, embed = "model.layers.1.mlp.up_proj", "model.embed_tokens.weight"
    a, b = (found.tensors[f"{up}.lora_{end}"].read() for end in "ab")
    plain = base.tensors[f"{up}.weight"].astype(np.float32)
    np.testing.assert_allclose(merged[f"{up}.weight"].read(), plain + 2.0 * b @ a, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(merged[f"{up}.weight"].read()[7:20], merged[f"{up}.weight"].read_rows(7, 20))
    rows = base.tensors[embed].astype(np.float32)
    rows[list(TAGS)] = found.tensors["model.embed_tokens.tag_rows"].read()
    np.testing.assert_array_equal(merged[embed].read(), rows)
    np.testing.assert_array_equal(merged[embed].read_rows(6, 61), rows[6:61])
    assert merged["model.norm.weight"].dtype == base.tensors["model.norm.weight"].dtype
    short = Checkpoint(base.config | {"vocab_size": 60}, base.tensors)
    with pytest.raises(UserError, match="has a row for token 60, the model 60 rows"):
        merge_adapter(short, found)


def test_the_facts_of_an_adapter_go_with_it(tmp_path):
    facts = {"tokenizer": "abc", "run": "mine"}
    write_peft(tmp_path, Adapter(adapter().lora, adapter().tensors, facts=facts), "base")
    assert read_tensor_file(tmp_path / "adapter_model.safetensors")[1] == {"format": "pt", **facts}
    assert read_adapter(tmp_path).facts == facts
