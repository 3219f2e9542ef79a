"""Exports as PEFT and transformers load them, and their adapters here: the same logits (slow)."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from tiny_run import write_run
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.language.tags import TAGS
from mvjax.models import from_checkpoint, load_adapter, load_checkpoint, save_checkpoint
from mvjax.models.load import load_with_tags
from mvjax.tokenizers import load_tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.trained import open_trained
from mvjax.weights import Checkpoint

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
"""Of the largest logit."""
IDS = np.random.default_rng(0).permutation(272)[:64].astype(np.int32)[None]
"""Some of the control tags among them."""


@pytest.fixture(params=["tied", "untied"])
def base(request, tmp_path, monkeypatch):
    """A base model in float32 without rows for the tags; its directory's name."""
    monkeypatch.chdir(tmp_path)
    pytest.importorskip("peft")
    config = tiny_config("qwen2", tied=request.param == "tied", hidden_size=64, intermediate_size=96)
    tensors = {name: tensor * 0.1 + (tensor.ndim < 2) for name, tensor in tiny_tensors(config).items()}
    write_gguf_model(tmp_path / "words.gguf", tiny_config(), tiny_tensors(tiny_config()))
    generation = {"eos_token_id": [2, 0], "pad_token_id": 2}
    save_checkpoint("base", Checkpoint(config, tensors, "made up", generation), tokenizer=load_tokenizer("words.gguf"))
    return "base"


@pytest.fixture
def run(base):
    """A run of that base model with an adapter."""
    config = TrainConfig(name="mine").replace(model={"path": base}, lora={"rank": 4, "alpha": 6.0})
    return write_run(config)[0]


def theirs(model):
    import torch

    with torch.no_grad():
        return model.eval()(torch.tensor(IDS, dtype=torch.long)).logits.numpy()


def ours(decoder):
    positions = np.arange(IDS.shape[1], dtype=np.int32)[None]
    hide = np.full((1, 1, IDS.shape[1]), IDS.shape[1], np.int32)
    return np.asarray(nnx.jit(lambda decoder, *rows: decoder(*rows))(decoder, IDS, positions, hide, hide))


def same(one, other):
    assert np.abs(one - other).max() <= TOLERANCE * np.abs(other).max()


def transformers_model(path, rows=None):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    if rows:
        model.resize_token_embeddings(rows)
    return model


def test_peft_loads_ours(run, base):
    import peft

    wanted = ours(from_checkpoint(open_trained(run).checkpoint()))
    assert main(["export", str(run), "--output", "peft"]) == 0
    plain = theirs(transformers_model(base, 272))
    loaded = theirs(peft.PeftModel.from_pretrained(transformers_model(base, 272), "peft"))
    assert np.abs(loaded - plain).max() > 0.01 * np.abs(plain).max()
    same(loaded, wanted)


def test_transformers_loads_every_export(run):
    import peft
    import transformers

    wanted = ours(from_checkpoint(open_trained(run).checkpoint()))
    assert main(["export", str(run), "--merge", "--output", "merged", "--max-shard-size", "50kB"]) == 0
    same(theirs(transformers_model("merged")), wanted)
    assert main(["export", str(run), "--tags-in-base", "--output", "served"]) == 0
    same(theirs(peft.PeftModel.from_pretrained(transformers_model("served/base"), "served/adapter")), wanted)
    same(theirs(peft.AutoPeftModelForCausalLM.from_pretrained("served/adapter")), wanted)
    tags = list(open_trained(run).tokenizer.tag_ids)
    for folder in ("merged", "served/base", "served/adapter"):
        words = transformers.AutoTokenizer.from_pretrained(folder)
        assert words.convert_tokens_to_ids(list(TAGS)) == tags
        chat = [{"role": "user", "content": "ab"}]
        prompt = words.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        assert prompt == open_trained(run).tokenizer.render_chat(chat)
    assert transformers.GenerationConfig.from_pretrained("merged").eos_token_id == [2, 0]


@pytest.mark.parametrize("rows", ["none", "list", "each"])
def test_we_load_theirs(base, rows):
    """Saved by PEFT: without rows of tokens, with those of the embedding and what is tied to it, with those of each."""
    import peft
    import torch

    tokens = [270, 5, 261]
    indices = {"none": None, "list": tokens, "each": {"embed_tokens": tokens, "lm_head": tokens}}[rows]
    config = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "o_proj", "up_proj"], trainable_token_indices=indices
    )
    model = transformers_model(base, 272)
    # Rows of the tags as we begin with them.
    tokenizer, decoder = load_with_tags(base)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.tensor(np.array(decoder.embed_tokens.matrix())))
        model.get_output_embeddings().weight.copy_(torch.tensor(np.array(decoder.head.matrix())))
    adapted = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 0.1 * noise if "lora_B" in name else parameter.data + 0.1 * noise
    adapted.save_pretrained("theirs", save_embedding_layers=False)
    wanted = theirs(adapted)
    assert np.abs(ours(decoder) - wanted).max() > 0.01 * np.abs(wanted).max()
    same(ours(load_adapter("theirs", decoder, tokenizer=tokenizer.fingerprint)), wanted)
    assert main(["convert", base, "merged", "--adapter", "theirs"]) == 0
    same(ours(from_checkpoint(load_checkpoint("merged"))), wanted)


def test_what_peft_saves_by_default_is_served(base):
    """Every field that a configuration has today is known to be harmless, or is empty."""
    import peft

    adapted = peft.get_peft_model(transformers_model(base), peft.LoraConfig(r=2, target_modules="all-linear"))
    adapted.save_pretrained("theirs")
    decoder = load_adapter("theirs", load_with_tags(base)[1])
    assert dataclasses.astuple(decoder.lora)[:2] == (2, 8.0)
