"""Live comparison with transformers and PyTorch (slow)."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from sharded_models import finish, start
from tiny_weights import conditioned, tiny_config, tiny_tensors, write_gguf_model

from mvjax.language.tags import TAGS
from mvjax.models import DecoderStepModel, from_checkpoint, from_hf, load_checkpoint, save_checkpoint, to_checkpoint
from mvjax.models.families import FAMILIES
from mvjax.models.load import load_with_tags

pytestmark = pytest.mark.slow

SCALED = json.loads((Path(__file__).parents[1] / "fixtures" / "models" / "scaled.json").read_text())
TOLERANCE = 2e-5  # of the largest logit, float32


def reference(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.asarray(ids, dtype=torch.long)).logits.float().numpy()


def compare(decoder, model, ids, causal):
    wanted = reference(model, ids)
    found = nnx.jit(lambda decoder, *rows: decoder(*rows))(decoder, ids, *causal(*ids.shape))
    assert np.abs(found - wanted).max() <= TOLERANCE * np.abs(wanted).max()
    return wanted


@pytest.mark.parametrize("name", ["llama", "llama3", "qwen2", "qwen2_tied", "qwen3", "olmo2"])
def test_transformers_loads_what_is_saved_and_agrees(name, fixture_checkpoint, tmp_path, causal):
    transformers = pytest.importorskip("transformers")
    decoder = from_checkpoint(fixture_checkpoint(name))
    save_checkpoint(tmp_path / "model", to_checkpoint(decoder))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    ids = np.random.default_rng(7).integers(3, 96, (3, 70)).astype(np.int32)
    compare(decoder, model.eval(), ids, causal)


@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize("length", [12, 70])
def test_rotary_scaling_equals_that_of_transformers(name, length, fixture_checkpoint, tmp_path, causal):
    """Within the trained length and far beyond it, and transformers loads what is saved."""
    transformers = pytest.importorskip("transformers")
    checkpoint = fixture_checkpoint("qwen2")
    decoder = from_checkpoint(dataclasses.replace(checkpoint, config=checkpoint.config | SCALED[name]))
    save_checkpoint(tmp_path / "model", to_checkpoint(decoder))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager")
    ids = np.random.default_rng(7).integers(3, 96, (2, length)).astype(np.int32)
    compare(decoder, model.eval(), ids, causal)


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2"])
def test_biases_of_the_attention_equal_those_of_transformers(family, tmp_path, causal):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
    config = transformers.AutoConfig.for_model(
        family, **sizes, num_attention_heads=4, num_key_value_heads=2, attention_bias=True, pad_token_id=0
    )
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.save_pretrained(tmp_path / "model")
    decoder = from_checkpoint(load_checkpoint(tmp_path / "model"))
    compare(decoder, model, np.random.default_rng(7).integers(3, 96, (2, 40)).astype(np.int32), causal)


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_are_those_of_transformers(family):
    """A configuration with the sizes alone, and one with null where transformers allows it."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 96, "hidden_size": 4096, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 32}
    for change in ({}, {"num_key_value_heads": None}, {"rope_theta": 5e4}):
        theirs = transformers.AutoConfig.for_model(family, **sizes, **change)
        ours = from_hf({"model_type": family, **sizes, **change})
        heads = theirs.num_attention_heads
        width = getattr(theirs, "head_dim", None) or theirs.hidden_size // heads
        assert (ours.heads, ours.kv_heads, ours.head_dim) == (heads, theirs.num_key_value_heads, width)
        assert (ours.rms_eps, ours.max_position) == (theirs.rms_norm_eps, theirs.max_position_embeddings)
        assert (ours.tied, ours.rope_theta) == (theirs.tie_word_embeddings, theirs.rope_parameters["rope_theta"])
        assert ours.attention_bias == getattr(theirs, "attention_bias", False)


def test_transformers_loads_what_a_mesh_exports(tmp_path, causal):
    """Shards with an index, tokenizer with the tags, chat template and generation config, from 8 devices."""
    transformers = pytest.importorskip("transformers")
    hf_config = tiny_config("qwen2", tied=False)
    model = write_gguf_model(tmp_path / "model.gguf", hf_config, conditioned(tiny_tensors(hf_config)))
    count = finish(start("export_tagged", 8, str(model), str(tmp_path / "exported"), (1, 4, 1, 2)))
    index = json.loads((tmp_path / "exported" / "model.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == count
    assert len(set(index["weight_map"].values())) > 4
    tokenizer, decoder = load_with_tags(model, scan_layers=False)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported", attn_implementation="eager")
    ids = np.random.default_rng(7).integers(3, tokenizer.vocab_size, (2, 40)).astype(np.int32)
    compare(decoder, theirs.eval(), ids, causal)
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "exported")
    assert generation.eos_token_id == load_checkpoint(model).generation["eos_token_id"]
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert words.convert_tokens_to_ids(list(TAGS)) == list(tokenizer.tag_ids)
    chat = [{"role": "user", "content": "ab"}]
    prompt = words.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert prompt == tokenizer.render_chat(chat, add_generation_prompt=True)


@pytest.fixture(scope="module")
def smollm2():
    """SmolLM2-135M-Instruct's GGUF file, our decoder of it and transformers' model of it, dequantised, float32."""
    path = os.environ.get("MVJAX_SMOLLM2")
    if not path:
        pytest.skip("MVJAX_SMOLLM2 does not name SmolLM2-135M-Instruct's GGUF file")
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    pytest.importorskip("accelerate", reason="transformers reads GGUF files with accelerate only")
    path = Path(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )
    return from_checkpoint(load_checkpoint(path), scan_layers=False), model.eval()


def test_smollm2_equals_transformers(smollm2, causal):
    decoder, model = smollm2
    ids = np.random.default_rng(3).integers(0, 49152, (1, 96)).astype(np.int32)
    compare(decoder, model, ids, causal)


def test_smollm2_decodes_as_transformers_computes(smollm2):
    """Prefill, then one row fed token by token: the logits of transformers' forward."""
    import jax

    from mvjax.engine.model import RowPlacement

    decoder, model = smollm2
    step = DecoderStepModel(decoder)
    ids = np.random.default_rng(4).integers(0, 49152, 48).astype(np.int32)
    wanted = reference(model, ids[None])[0]
    slots, prompt = 64, 32
    hide, row = np.zeros((1, 0, slots), np.int32), np.zeros(1, np.int32)
    kv = jax.jit(step.prefill, donate_argnums=1)(
        *(step.params, step.init_kv(1, slots), ids[None, :prompt], np.arange(prompt)[None]),
        *(hide, hide, row, row, row + np.int32(prompt)),
    )
    decode = jax.jit(step.decode, donate_argnums=1)
    for t in range(prompt, len(ids)):
        words = (np.arange(slots) <= t).astype(np.uint32)[None]
        placement = RowPlacement(row, row, row[None], np.array([t], np.int32), row == 0)
        logits, kv = decode(step.params, kv, ids[[t]], np.array([t], np.int32), placement, words)
        assert np.abs(logits[0] - wanted[t]).max() <= TOLERANCE * np.abs(wanted).max()
