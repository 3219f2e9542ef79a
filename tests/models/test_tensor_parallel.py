"""A model split over devices: what each of them gets, which splits there are, and the same answers as on one."""

import json
import types

import numpy as np
import pytest
from tensor_models import checkpoint, run
from tiny_weights import conditioned, tiny_config, tiny_tensors, write_gguf_model

from mvjax.errors import UserError
from mvjax.models import from_hf
from mvjax.models.load import step_model
from mvjax.models.number_formats import number_formats
from mvjax.models.tensor_split import Source, TensorSplit, devices_needed, tensor_mesh
from mvjax.planning.shapes import named
from mvjax.weights import Checkpoint
from mvjax.weights.checkpoint import lazily


@pytest.mark.parametrize(("family", "kv_heads", "size"), [("qwen2", 4, 2), ("olmo2", 2, 8), ("qwen3", 1, 4)])
def test_every_device_gets_the_rows_and_columns_of_its_heads(family, kv_heads, size):
    made = checkpoint(family, kv_heads)
    split, entries = TensorSplit(from_hf(made.config), size), lazily(made.tensors)
    heads, group, ffn = 8 // size, max(size // kv_heads, 1), 48 // size
    source = Source(entries, number_formats("float32"))
    get = lambda name: np.asarray(entries[f"model.layers.1.{name}"].read())  # noqa: E731

    def rows(name, count, device):
        return get(name)[device * count : (device + 1) * count]

    for name, piece in split.layer.items():
        whole = piece.tensor(source, "model.layers.1.").read()
        assert whole.shape == piece.shape
        for device, part in enumerate(np.split(whole, size, axis=piece.split) if piece.split is not None else [whole]):
            kind = name.rpartition(".")[2]
            if name.startswith("self_attn.qkv."):
                kv = [rows(f"self_attn.{x}_proj.{kind}", 8 * -(-kv_heads // size), device // group) for x in "kv"]
                wanted = np.concatenate([rows(f"self_attn.q_proj.{kind}", 8 * heads, device), *kv])
            elif name == "mlp.gate_up.weight":
                wanted = np.concatenate([rows(f"mlp.{x}_proj.weight", ffn, device) for x in ("gate", "up")])
            elif name in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                wanted = np.split(get(name), size, axis=1)[device]
            elif family == "olmo2" and name in ("self_attn.q_norm.weight", "self_attn.k_norm.weight"):
                one = 8 * heads if name == "self_attn.q_norm.weight" else 8
                wanted = rows(name, one, device // (group if "k_norm" in name else 1))
            else:
                assert piece.split is None
                wanted = get(name)
            np.testing.assert_array_equal(part, wanted, err_msg=f"{name} of device {device}")
    for name, prefix in {"embed": "model.", "head": ""}.items():
        if (piece := split.outer.get(name)) is not None:
            whole = piece.tensor(source, prefix).read()
            assert whole.shape == (-(-45 // size) * size, 32)
            np.testing.assert_array_equal(whole[:45], entries[prefix + piece.parts[0].name].read())
            assert not whole[45:].any()


@pytest.mark.parametrize(
    ("name", "size", "good"),
    [
        ("smollm2-135m", 2, "1, 3"),
        ("qwen2.5-7b", 8, "1, 2, 4"),
        ("qwen2.5-14b", 0, "1, 2, 4, 8"),
    ],
)
def test_a_split_that_cannot_be_is_refused_with_those_that_can(name, size, good):
    with pytest.raises(UserError) as refused:
        TensorSplit(named(name).config, size)
    assert str(refused.value).startswith(f"tensor parallel {size}: ")
    assert str(refused.value).endswith(f"cannot be shared by {size} devices; {good} can be")


def test_more_devices_than_there_are():
    with pytest.raises(
        UserError, match=r"^tensor parallel 64: there (is|are) \d+ cpu devices? here; give at most \d+$"
    ):
        tensor_mesh(64)
    hf_config = tiny_config("qwen2", num_attention_heads=64, intermediate_size=64, head_dim=8)
    with pytest.raises(UserError, match="give at most"):
        step_model(Checkpoint(hf_config, tiny_tensors(hf_config)), tensor_parallel=64)


def test_a_model_is_split_no_further_than_it_must():
    def chips(count, gigabytes):
        stats = {"bytes_limit": gigabytes * 1e9}
        return [types.SimpleNamespace(memory_stats=lambda: stats) for _ in range(count)]

    large, small = named("qwen2.5-32b").config, named("qwen2.5-7b").config
    assert devices_needed(large, "bfloat16", chips(8, 140)) == 1
    assert devices_needed(large, "bfloat16", chips(8, 80)) == 2
    assert devices_needed(large, "bfloat16", chips(8, 16)) == 8
    assert devices_needed(large, "float32", chips(8, 16)) == 8  # It does not fit: the most that there are.
    assert devices_needed(small, "bfloat16", chips(8, 16)) == 2
    assert devices_needed(small, "float32", chips(3, 16)) == 2
    assert devices_needed(large, "bfloat16") == 1  # CPUs do not say what they have.


@pytest.mark.parametrize(
    ("family", "kv_heads", "devices", "unroll", "page_size", "count"),
    [
        ("qwen2", 4, 2, False, 32, 1),
        *(
            pytest.param(*options, marks=pytest.mark.slow)
            for options in (
                ("qwen3", 2, 8, True, None, 2),
                ("qwen3", 4, 4, True, 32, 2),
                ("qwen2", 4, 2, False, None, 2),
                ("olmo2", 2, 4, False, 32, 2),
                ("olmo2", 8, 8, True, 32, 2),
                ("llama", 1, 4, True, 32, 2),
            )
        ),
    ],
)
def test_several_devices_give_the_logits_of_one(family, kv_heads, devices, unroll, page_size, count):
    found = run("played", family, kv_heads, devices, unroll, page_size, count)
    assert found["error"] < 2e-6
    assert len(found["same"]) > 40 * count
    assert all(found["same"])
    own, those_of_its_heads = found["parameters"]
    assert own == those_of_its_heads
    assert found["heads"] == [max(devices, kv_heads), max(kv_heads // devices, 1)]
    assert found["replicated"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kv_heads", "devices"), [("qwen2", 4, 2), ("olmo2", 2, 4)])
def test_several_devices_draw_from_the_logits_of_one(family, kv_heads, devices):
    found = run("recorded", family, kv_heads, devices, 8)
    assert found["same"]
    assert found["blocks"] >= 2
    assert found["error"] < 2e-6


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kv_heads"), [("qwen2", 8), ("qwen3", 4), ("olmo2", 2)])
def test_several_devices_give_the_tokens_of_one(family, kv_heads):
    """Fifty random requests, sampled and greedy, with blocks; over pages some are preempted."""
    found = run("many", family, kv_heads, 50)
    assert found["blocks"] > 10
    assert len(found["runs"]) == 6
    for each in found["runs"]:
        assert not each["differ"], each
        assert each["preempted"] == each["paged"]


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_replicas_over_the_devices_give_the_tokens_of_one(devices):
    """Each on devices of its own, all of them busy."""
    found = run("replicated", "qwen3", 4, devices, 16)
    assert found["same"]
    assert found["places"] == np.arange(8).reshape(-1, devices).tolist()
    assert min(found["served"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("unroll", "devices", "formats"),
    [(True, 4, {}), (False, 4, {}), (True, 1, {"weight_dtype": "int8"}), (False, 4, {"weight_dtype": "int8"})],
)
def test_no_device_ever_holds_much_more_than_its_part(unroll, devices, formats):
    """Nor of quantised weights, which are a quarter: never the model that they are made from."""
    found = run("loading", "qwen2", 4, devices, unroll, **formats)
    assert found["same"]
    assert found["puts"] > 100
    assert found["most"] < 1.7


@pytest.mark.slow
def test_the_verbs_split_a_model(tmp_path):
    hf_config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    toy = str(write_gguf_model(tmp_path / "toy.gguf", hf_config, conditioned(tiny_tensors(hf_config))))
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"question": "What is 1+1?", "answer": "It is.\n#### 2"}) + "\n")
    few = ("--model", toy, "--max-branches", 2, "--max-new-tokens", 80, "--temperature", 1, "--json")
    bench = ("--rows", 1, 2, "--max-branches", 2, "--row-counts", 2, "--slots", 160, "--steps", 24, "--repeat", 1)
    bench += ("--requests", 1, 2, "--prompt-tokens", 20, "--new-tokens", 24)
    one, two, checked, timed = run(
        "verbs",
        ("generate", "What is 1+1?", *few),
        ("generate", "What is 1+1?", *few, "--tensor-parallel", 2),
        ("evaluate", str(data), *few, "--check", "--tensor-parallel", 4),
        ("bench", "engine", "--model", toy, *bench, "--output", str(tmp_path), "--tensor-parallel", 2),
    )
    assert [status for status, _ in (one, two, checked, timed)] == [0, 0, 0, 0]
    assert json.loads(one[1])["response"] == json.loads(two[1])["response"]
    assert json.loads(checked[1])["tokens compared"] > 40
    assert json.loads(checked[1])["largest error of a logit"] < 2e-5
    assert json.loads(checked[1])["contradictions"] == 0
    assert "engine/bare" in timed[1]
