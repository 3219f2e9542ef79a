"""`mvjax convert` from the command line's side."""

import builtins
import errno
import json
import os

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.convert import parse_size
from mvjax.cli.main import main
from mvjax.errors import UserError
from mvjax.models import load_checkpoint
from mvjax.tokenizers import load_tokenizer

EMBED = "model.embed_tokens.weight"


@pytest.fixture
def source(tmp_path):
    """A GGUF file with a model and a vocabulary of 260 tokens."""
    config = tiny_config(hidden_size=32, intermediate_size=64)
    return write_gguf_model(tmp_path / "tiny.gguf", config, tiny_tensors(config), kind="Q8_0")


def run(*arguments):
    return main(["convert", *map(str, arguments)])


def same(a, b):
    """The same names, types and bits."""
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_from_gguf_round_through_every_format(source, tmp_path, capsys):
    assert run(source, tmp_path / "a") == 0
    assert "20 tensors" in capsys.readouterr().out
    assert run(tmp_path / "a", tmp_path / "b", "--to", "orbax") == 0
    assert run(tmp_path / "b", tmp_path / "c", "--max-shard-size", "20kB") == 0
    assert (tmp_path / "c" / "model.safetensors.index.json").exists()
    original, tokenizer = load_checkpoint(source), load_tokenizer(source)
    messages = [{"role": "user", "content": "Count: 1, 2\n<Path> é"}]
    for folder in "abc":
        same(load_checkpoint(tmp_path / folder).tensors, original.tensors)
        carried = load_tokenizer(tmp_path / folder)
        assert carried.render_chat(messages) == tokenizer.render_chat(messages)
        assert carried.fingerprint == tokenizer.fingerprint
        assert carried.tag_ids is None


def test_tags_and_type(source, tmp_path):
    assert run(source, tmp_path / "a", "--add-tags", "--dtype", "bfloat16") == 0
    checkpoint, tokenizer = load_checkpoint(tmp_path / "a"), load_tokenizer(tmp_path / "a")
    assert tokenizer.tag_ids == tuple(range(260, 272))
    assert checkpoint.config["vocab_size"] == 272
    assert checkpoint.config["torch_dtype"] == "bfloat16"
    embed, plain = checkpoint.tensors[EMBED], load_checkpoint(source).tensors[EMBED]
    assert embed.dtype == ml_dtypes.bfloat16
    for tag, pieces in zip(tokenizer.tag_ids, tokenizer.tag_pieces()):
        np.testing.assert_array_equal(embed[tag], plain[pieces].mean(axis=0).astype(ml_dtypes.bfloat16))


def test_tags_that_are_there_keep_their_rows(source, tmp_path):
    assert run(source, tmp_path / "a", "--add-tags") == 0
    file = tmp_path / "a" / "model.safetensors"
    trained = bytearray(file.read_bytes())
    row = load_checkpoint(tmp_path / "a").tensors[EMBED][261].tobytes()
    at = trained.index(row)
    trained[at : at + 4] = np.float32(7.5).tobytes()
    file.write_bytes(trained)
    assert run(tmp_path / "a", tmp_path / "b", "--add-tags") == 0
    checkpoint = load_checkpoint(tmp_path / "b")
    assert checkpoint.tensors[EMBED][261, 0] == 7.5
    assert checkpoint.config["vocab_size"] == 272


def test_an_adapter_is_merged(source, tmp_path):
    from mvjax.models import LoraConfig, add_lora, from_checkpoint, save_adapter
    from mvjax.models.lora import TRAINABLE

    assert run(source, tmp_path / "tagged", "--add-tags") == 0
    base, tokenizer = load_checkpoint(tmp_path / "tagged"), load_tokenizer(tmp_path / "tagged")
    decoder = from_checkpoint(base)
    add_lora(decoder, LoraConfig(rank=2, alpha=4.0, targets=("q_proj",), tag_ids=tokenizer.tag_ids))
    nnx.update(decoder, jax.tree.map(lambda x: x + 0.25, nnx.state(decoder, TRAINABLE)))
    save_adapter(tmp_path / "adapter.safetensors", decoder, metadata={"tokenizer": tokenizer.fingerprint})
    assert run(source, tmp_path / "merged", "--adapter", tmp_path / "adapter.safetensors") == 0
    merged = load_checkpoint(tmp_path / "merged")
    assert merged.generation == base.generation
    assert load_tokenizer(tmp_path / "merged").tag_ids == tokenizer.tag_ids
    changed = {name for name in base.tensors if not np.array_equal(base.tensors[name], merged.tensors[name])}
    assert changed == {EMBED, *(f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2))}
    np.testing.assert_array_equal(merged.tensors[EMBED][:260], base.tensors[EMBED][:260])
    rows = (base.tensors[EMBED][260:] + 0.25).astype(ml_dtypes.bfloat16)
    np.testing.assert_allclose(merged.tensors[EMBED][260:], rows.astype(np.float32), rtol=1e-2)
    assert run(source, tmp_path / "x", "--adapter", tmp_path / "none") == 2
    assert run(source, tmp_path / "x", "--adapter", source) == 2
    assert not (tmp_path / "x").exists()


def one_error(capsys):
    """The one line on standard error."""
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    return text


def test_targets_are_replaced_only_when_told_so(source, tmp_path, capsys):
    target = tmp_path / "out" / "model"
    assert run(source, target) == 0
    capsys.readouterr()
    assert run(source, target, "--dtype", "float16") == 2
    assert "is not empty" in one_error(capsys)
    assert run(source, target, "--dtype", "float16", "--overwrite") == 0
    assert load_checkpoint(target).tensors[EMBED].dtype == np.float16
    (target / "config.json").rename(target / "kept.json")
    capsys.readouterr()
    assert run(source, target, "--overwrite") == 2
    assert "holds files that are no model" in one_error(capsys)
    assert run(source, target / "kept.json") == 2
    assert "is a file" in one_error(capsys)
    (target / "kept.json").rename(target / "config.json")
    source.rename(target / "inside.gguf")
    assert run(target / "inside.gguf", target, "--overwrite") == 2
    assert "would be deleted" in one_error(capsys)
    assert (target / "inside.gguf").exists()


def test_in_place(source, tmp_path):
    assert run(source, tmp_path / "m") == 0
    assert run(tmp_path / "m", tmp_path / "m", "--overwrite", "--to", "orbax") == 0
    assert not (tmp_path / "m" / "model.safetensors").exists()
    same(load_checkpoint(tmp_path / "m").tensors, load_checkpoint(source).tensors)


def test_mistakes_are_one_line_and_status_2(source, tmp_path, capsys):
    (tmp_path / "cut.gguf").write_bytes(source.read_bytes()[:-1000])
    assert run(tmp_path / "cut.gguf", tmp_path / "x") == 2
    assert "is truncated" in one_error(capsys)
    assert run(tmp_path / "nowhere", tmp_path / "x") == 2
    assert "does not exist" in one_error(capsys)
    assert run(source, tmp_path / "x", "--max-shard-size", "lots") == 2
    assert "'lots' is no size" in one_error(capsys)
    assert not (tmp_path / "x").exists()


def test_weights_alone_and_tokenizers_that_disagree(source, tmp_path, capsys):
    assert run(source, tmp_path / "a") == 0
    (tmp_path / "a" / "tokenizer.json").unlink()
    capsys.readouterr()
    assert run(tmp_path / "a", tmp_path / "b") == 2
    assert "--no-tokenizer" in one_error(capsys)
    assert run(tmp_path / "a", tmp_path / "b", "--no-tokenizer") == 0
    assert sorted(os.listdir(tmp_path / "b")) == ["config.json", "generation_config.json", "model.safetensors"]
    config = tiny_config(hidden_size=32, intermediate_size=64, vocab_size=100)
    small = write_gguf_model(tmp_path / "small.gguf", config, tiny_tensors(config))
    assert run(small, tmp_path / "c", "--no-tokenizer") == 0
    load_tokenizer(source).save(tmp_path / "c")
    capsys.readouterr()
    for options in ((), ("--add-tags",)):
        assert run(tmp_path / "c", tmp_path / "d", *options) == 2
        assert "the tokenizer has token" in one_error(capsys) or not options
    assert not (tmp_path / "d").exists()


def test_a_full_disk_or_a_tokenizer_that_fails_leaves_the_previous_model(source, tmp_path, monkeypatch, capsys):
    assert run(source, tmp_path / "out" / "m") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out" / "m").iterdir()}
    opened = builtins.open

    def full(file, mode="r", *arguments, **options):
        if mode == "wb" and str(file).endswith(".safetensors"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        return opened(file, mode, *arguments, **options)

    def interrupted(*_):
        raise KeyboardInterrupt

    capsys.readouterr()
    monkeypatch.setattr(builtins, "open", full)
    assert run(source, tmp_path / "out" / "m", "--overwrite", "--add-tags") == 2
    assert "no space left on the disk" in one_error(capsys)
    monkeypatch.undo()
    monkeypatch.setattr("mvjax.tokenizers.Tokenizer.save", interrupted)
    assert run(source, tmp_path / "out" / "m", "--overwrite", "--add-tags") == 130
    assert {path.name: path.read_bytes() for path in (tmp_path / "out" / "m").iterdir()} == before
    assert os.listdir(tmp_path / "out") == ["m"]


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), ("2GiB", 2**31), ("1.5mb", 1_500_000), ("1000", 1000), ("64 KiB", 65536), ("7B", 7)],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "5XB", "1e3", "i", "5iB"])
def test_sizes_that_are_none(text):
    with pytest.raises(UserError, match="is no size"):
        parse_size(text)


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("MVJAX_SMOLLM2"), reason="MVJAX_SMOLLM2 names no SmolLM2-135M-Instruct GGUF file"
)
def test_the_real_model_loads_in_transformers_with_its_tokenizer(tmp_path):
    transformers = pytest.importorskip("transformers")
    assert run(os.environ["MVJAX_SMOLLM2"], tmp_path / "m", "--add-tags", "--dtype", "bfloat16") == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert model.get_input_embeddings().weight.shape[0] == 49164
    assert tokenizer.convert_tokens_to_ids("<Think>") == 49152
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Say hello."}], tokenize=False)
    assert chat.startswith("<|im_start|>system")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_weights_that_are_not_finite_are_converted_with_a_warning(source, tmp_path, capsys):
    assert run(source, tmp_path / "a") == 0
    assert not capsys.readouterr().err
    file = tmp_path / "a" / "model.safetensors"
    tensors = load_file(file)
    for name, value in {"model.layers.1.mlp.up_proj.weight": np.nan, "model.norm.weight": np.inf}.items():
        tensors[name].reshape(-1)[3] = value
    save_file(tensors, file)
    for target, *options in (["b"], ["c", "--to", "orbax"], ["d", "--dtype", "bfloat16"], ["e", "--add-tags"]):
        assert run(tmp_path / "a", tmp_path / target, *options) == 0
        line = one_warning(capsys)
        assert "a: 2 tensors with values that are not finite: model.layers.1.mlp.up_proj.weight, model.norm" in line
    assert np.isnan(load_checkpoint(tmp_path / "d").tensors["model.layers.1.mlp.up_proj.weight"]).sum() == 1


def one_warning(capsys):
    """The one line on standard error."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    return lines[0]


def test_the_tokenizer_may_be_elsewhere(source, tmp_path, capsys):
    assert run(source, tmp_path / "whole") == 0
    assert run(source, tmp_path / "alone", "--no-tokenizer") == 0
    capsys.readouterr()
    assert run(tmp_path / "alone", tmp_path / "x") == 2
    assert "give --tokenizer" in capsys.readouterr().err
    for tokenizer in (tmp_path / "whole", tmp_path / "whole" / "tokenizer.json", source):
        assert run(tmp_path / "alone", tmp_path / "out", "--tokenizer", tokenizer, "--overwrite") == 0
        assert load_tokenizer(tmp_path / "out").fingerprint == load_tokenizer(source).fingerprint


def test_other_settings_of_a_tokenizer_are_carried(source, tmp_path):
    assert run(source, tmp_path / "a") == 0
    file = tmp_path / "a" / "tokenizer_config.json"
    others = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "model_max_length": 4096}
    dropped = {"added_tokens_decoder": {"0": {"content": "x"}}, "auto_map": {"AutoTokenizer": ["a.py"]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | others | dropped))
    assert run(tmp_path / "a", tmp_path / "b", "--add-tags") == 0
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert {key: config[key] for key in others} == others
    assert not dropped.keys() & config.keys()
