"""`mvjax export`: from a checkpoint to weights, by itself and as `convert`, `generate` and `evaluate` see it."""

import json
import re

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as orbax
import pytest
from etils import epath
from safetensors.numpy import load_file
from tiny_run import write_run
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.hub import Source
from mvjax.models import load_checkpoint, read_adapter, save_checkpoint, to_checkpoint
from mvjax.models.load import load_for_generation
from mvjax.storage import StoragePath, copy_tree
from mvjax.tokenizers import load_tokenizer
from mvjax.training.config import TrainConfig
from mvjax.training.trained import load_run, open_base, open_trained
from mvjax.weights import Checkpoint

EMBED, HEAD, UP = "model.embed_tokens.weight", "lm_head.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with two base models in bfloat16, tied and untied."""
    monkeypatch.chdir(tmp_path)
    write_gguf_model(tmp_path / "words.gguf", tiny_config(), tiny_tensors(tiny_config()))
    for name, tied in (("tied", True), ("untied", False)):
        config = tiny_config("qwen2", tied=tied, hidden_size=32, intermediate_size=64)
        save_checkpoint(name, load_with(config), tokenizer=load_tokenizer("words.gguf"))
    return tmp_path


def load_with(config):
    """A random model of a configuration, with settings of its own beside it."""
    generation = {"eos_token_id": [2, 0], "temperature": 0.25}
    return Checkpoint(config, tiny_tensors(config), "made up", generation).astype("bfloat16")


def config(base="tied", **changes):
    changes = {"lora": {"rank": 2, "alpha": 6.0, "targets": ("q_proj", "down_proj")}} | changes
    return TrainConfig(name="mine").replace(model={"path": base}, **changes)


def export(*arguments):
    return main(["export", *map(str, arguments)])


def one_error(capsys):
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_a_full_run_becomes_a_model_in_the_type_of_its_base(place, capsys):
    run, model, params = write_run(config(lora={"rank": 0}), steps=(3, 5))
    wanted = to_checkpoint(model.join(params)).tensors
    stored = orbax.PyTreeCheckpointHandler().metadata(epath.Path(run.absolute() / "checkpoints/5/state")).tree
    assert stored[".params['layers/mlp/up_proj/weight']"].storage.chunk_shape == (1, 64, 32)  # a layer is one read
    assert export(run, "--output", "out", "--max-shard-size", "20kB") == 0
    assert "out: hf, " in capsys.readouterr().out
    index = json.loads((place / "out/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == 4
    found, base = load_checkpoint("out"), load_checkpoint("tied")
    assert found.tensors.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(found.tensors[name], np.asarray(tensor).astype(ml_dtypes.bfloat16))
    assert found.config == {**base.config, "vocab_size": 272}
    assert found.generation == base.generation
    tokenizer = load_tokenizer("out")
    assert tokenizer.tag_ids == tuple(range(260, 272))
    assert tokenizer.settings.chat_template == load_tokenizer("tied").settings.chat_template
    assert "Trained from `tied`, 5 steps of mine" in (place / "out/README.md").read_text()
    assert export(run / "checkpoints" / "3", "--output", "third", "--dtype", "float32") == 0
    assert load_checkpoint("third").tensors[UP].dtype == np.float32
    assert export(run, "--checkpoint", "3", "--format", "orbax", "--dtype", "float32", "--output", "orbax") == 0
    for name, tensor in load_checkpoint("third").tensors.items():
        np.testing.assert_array_equal(load_checkpoint("orbax").tensors[name], tensor)


@pytest.mark.parametrize("base", ["tied", "untied"])
def test_an_adapter_goes_to_peft_and_back(place, base, capsys):
    run, model, params = write_run(config(base))
    assert export(run, "--output", "peft") == 0
    assert export(run, "--merge", "--output", "merged", "--dtype", "float32") == 0
    settings = json.loads((place / "peft/adapter_config.json").read_text())
    tags = list(range(260, 272))
    assert settings["trainable_token_indices"] == (tags if base == "tied" else {"embed_tokens": tags, "lm_head": tags})
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 6, base)
    stored = load_file(place / "peft/adapter_model.safetensors")
    assert {array.dtype for array in stored.values()} == {np.dtype(np.float32)}
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(stored[name], params["layers/self_attn/q_proj/lora_a"][1])
    assert len(stored) == 2 * 2 * 2 + (1 if base == "tied" else 2)
    assert "model.resize_token_embeddings(272)" in (place / "peft/README.md").read_text()
    ours, theirs = open_trained(run).adapter, read_adapter("peft")
    assert ours.lora == theirs.lora
    assert main(["convert", base, "converted", "--adapter", "peft", "--dtype", "float32"]) == 0
    wanted = to_checkpoint(model.join(params)).tensors
    merged, converted = load_checkpoint("merged"), load_checkpoint("converted")
    for name, tensor in wanted.items():
        np.testing.assert_allclose(merged.tensors[name], np.asarray(tensor, np.float32), rtol=1e-2)
    for name in (EMBED, UP, *([HEAD] if base == "untied" else [])):
        np.testing.assert_array_equal(
            converted.tensors[name], merged.tensors[name].astype(ml_dtypes.bfloat16).astype(np.float32)
        )
    assert export(run, "--output", "peft") == 2
    assert "--overwrite" in one_error(capsys)
    assert export(run, "--output", "peft", "--overwrite") == 0


def test_the_tags_rows_go_into_the_base(place):
    run, _, params = write_run(config("untied"))
    assert export(run, "--tags-in-base", "--output", "both", "--dtype", "float32") == 0
    base, plain = load_checkpoint("both/base"), read_adapter("both/adapter")
    start = load_checkpoint("untied")
    for name, rows in ((EMBED, "embed_tokens/tag_rows"), (HEAD, "lm_head/tag_rows")):
        np.testing.assert_array_equal(base.tensors[name][260:], params[rows])
        np.testing.assert_array_equal(base.tensors[name][:260], start.tensors[name].astype(np.float32))
    np.testing.assert_array_equal(base.tensors[UP], start.tensors[UP].astype(np.float32))
    assert (plain.lora.rank, plain.lora.tag_ids) == (2, ())
    settings = json.loads((place / "both/adapter/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "both/base"
    assert "resize_token_embeddings" not in (place / "both/adapter/README.md").read_text()
    whole = open_trained(run).checkpoint()
    assert main(["convert", "both/base", "whole", "--adapter", "both/adapter"]) == 0
    for name in whole.tensors:
        np.testing.assert_allclose(load_checkpoint("whole").tensors[name], whole.tensors[name], rtol=1e-6, atol=1e-6)


def test_the_engine_s_weights_of_a_run_are_those_of_its_export(place, capsys):
    run, _, _ = write_run(config(), steps=(3, 5))
    assert export(run, "--merge", "--dtype", "float32", "--output", "merged") == 0
    trained, model = load_run(run)
    tokenizer, exported = load_for_generation("merged")
    assert trained.tokenizer.fingerprint == tokenizer.fingerprint
    jax.tree.map(np.testing.assert_array_equal, model.params, exported.params)
    assert trained.fingerprint != open_trained(run, "3").fingerprint
    capsys.readouterr()
    (place / "data.jsonl").write_text(json.dumps({"id": "1", "problem": "ab?", "answer": "ab"}))
    for verb in (("generate", "ab?"), ("evaluate", "data.jsonl")):
        assert main([*verb, "--model", str(run), "--adapter", str(run)]) == 2
        assert "leave --adapter out" in one_error(capsys)


@pytest.mark.slow
def test_a_run_answers_and_is_evaluated_as_its_export_does(place, capsys):
    run, _, _ = write_run(config(), steps=(3, 5))
    assert export(run, "--merge", "--dtype", "float32", "--output", "merged") == 0
    (place / "data.jsonl").write_text(json.dumps({"id": "1", "problem": "ab?", "answer": "ab"}) + "\n")
    limits = ("--max-new-tokens", "24", "--max-branches", "2")
    answers = {}
    for model in (run, "merged", run / "checkpoints" / "3"):
        capsys.readouterr()
        assert main(["generate", "ab?", "--model", str(model), "--json", *limits]) == 0
        answers[model] = json.loads(capsys.readouterr().out)["response"]
    assert answers[run] == answers["merged"] != answers[run / "checkpoints" / "3"]
    evaluate = ("evaluate", "data.jsonl", "--model", str(run), "--output", "outcomes", *limits)
    assert main([*evaluate, "--requests", "1"]) == 0
    capsys.readouterr()
    assert main([*evaluate, "--checkpoint", "3"]) == 2
    assert "holds the outcomes of a run with other settings (model: " in one_error(capsys)


def test_what_cannot_be_exported_is_one_line(place, capsys):
    full, _, _ = write_run(config(lora={"rank": 0}))
    lora, _, _ = write_run(config().replace(name="other"))
    for words, said in (
        ((full, "--format", "peft"), "all weights were trained, so there is no adapter"),
        ((full, "--tags-in-base"), "all weights were trained, so there is no adapter"),
        ((lora, "--merge", "--format", "peft"), "give one of them"),
        ((lora, "--tags-in-base", "--merge"), "leave --merge and --format out"),
        ((lora, "--dtype", "bfloat16"), "an adapter keeps float32"),
        ((lora, "--checkpoint", "4"), "has no checkpoint '4'; there are those of the steps 3, and latest"),
        (("tied",), "tied: is no run of `mvjax train`"),
        (
            (lora, "--base", "untied"),
            "untied: is not the model that runs/other began with: model.lm_head.",
        ),
        ((lora, "--base", "gone"), "gone: the model that runs/other began with is not here; name it with --base"),
        ((lora, "--output", "tied/config.json"), "is a file: name a directory"),
        ((lora, "--output", "runs"), "holds files that are no export"),
    ):
        assert export(*words) == 2, words
        assert said in one_error(capsys), words
    assert main(["convert", str(full), "x"]) == 2
    assert "use mvjax export" in one_error(capsys)
    assert main(["convert", str(full / "checkpoints" / "3"), "x"]) == 2
    assert "use mvjax export" in one_error(capsys)
    record = full / "checkpoints/3/record/metadata"
    text = record.read_text()
    (name,) = re.findall(r"\.params\['layers/mlp/up_proj/weight'\]", text.partition("fingerprints")[2])
    number = json.loads(text)["fingerprints"][name]
    record.write_text(text.replace(f'"{name}": {number}', f'"{name}": {number ^ 1}'))
    assert export(full) == 2
    assert f"{name}: the numbers are not those that were saved: the checkpoint is damaged" in one_error(capsys)
    record.write_text("{")
    assert export(full) == 2
    assert "the checkpoint is damaged" in one_error(capsys)
    assert not [*(place / "exports").iterdir()]


def test_when_the_weights_of_a_base_model_on_the_hub_are_needed(place):
    """To merge an adapter, or where nothing else says of which type they are."""
    asked = []

    def find(kind):
        asked.append(kind)
        return Source(place / "untied", "owner/name", repository="owner/name")

    def opened(adapted, merging):
        asked.clear()
        return open_base(find, adapted, merging, untied=True)[1]

    whole = load_checkpoint("untied")
    for adapted in (True, False):
        found = opened(adapted, merging=False)
        assert (asked, len(found.tensors), found.dtype) == (["config"], 0, "bfloat16")
        assert (found.config, found.generation) == (whole.config, whole.generation)
    assert len(opened(adapted=True, merging=True).tensors) == len(whole.tensors)
    assert asked == ["model"]
    path = place / "untied/config.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({key: kept[key] for key in kept if key not in ("torch_dtype", "tie_word_embeddings")}))
    assert opened(adapted=True, merging=False).config["tie_word_embeddings"] is False
    assert asked == ["config"]
    assert len(opened(adapted=False, merging=False).tensors) == len(whole.tensors)
    assert asked == ["config", "model"]


def test_from_a_bucket_and_into_one(place, gcs_bucket, capsys):
    run, _, _ = write_run(config())
    bucket = StoragePath(gcs_bucket.address) / "exported"
    copy_tree(StoragePath(str(run)), bucket / "mine")
    assert export(bucket / "mine", "--merge", "--output", bucket / "merged") == 0
    assert export(bucket / "mine" / "checkpoints" / "3", "--output", bucket / "peft") == 0
    assert export(bucket / "mine", "--tags-in-base", "--output", bucket / "both") == 0
    for words, name in (("--merge", "merged"), ("--format=peft", "peft"), ("--tags-in-base", "both")):
        assert export(run, words, "--output", place / name) == 0
        here, there = StoragePath(str(place / name)), bucket / name
        assert [*here.walk()] == [*there.walk()]
        tensors = [name for name in here.walk() if name.endswith(".safetensors")]
        assert all((here / name).read_bytes() == (there / name).read_bytes() for name in tensors)
    capsys.readouterr()
    assert export(run, "--output", bucket / "peft") == 2
    assert "is there already" in one_error(capsys)
    for there in (bucket / "mine", bucket / "mine" / "checkpoints" / "3"):
        assert main(["convert", str(there), "x"]) == 2
        assert f"{there}: it is a training run; use mvjax export {there}," in one_error(capsys)
    assert export(run, "--output", bucket / "mine", "--overwrite") == 2
    assert "holds files that are no export" in one_error(capsys)
