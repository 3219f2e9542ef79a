"""`mvjax train` from the command line's side: a tiny model through the whole path, and every mistake one line."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.data.records import Record, write_records
from mvjax.data.sources import find_data
from mvjax.errors import UserError
from mvjax.models import load_adapter, load_checkpoint, merge, save_checkpoint
from mvjax.models.load import load_with_tags
from mvjax.tokenizers import load_tokenizer
from mvjax.training import train as training
from mvjax.training.config_file import load_config
from mvjax.training.distributed import HostSync
from mvjax.training.mesh import make_placement

ROOT = Path(__file__).parents[2]
RESPONSE = (
    "Let's think in parallel.\n<Parallel>\n<Goal>\n"
    "<Outline>\n1: Add {a}.\n</Outline>\n<Outline>\n2: Add {b}.\n</Outline>\n</Goal>\n"
    "<Path>\n1: {a}+1={a1}.\n</Path>\n<Path>\n2: {b}+1={b1}.\n</Path>\n"
    "<Conclusion>\n{a1}, {b1}.\n</Conclusion>\n</Parallel>\nDone."
)


def make_records(path, count=12, broken=0):
    records = []
    for i in range(count):
        response = RESPONSE.format(a=i, b=2 * i, a1=i + 1, b1=2 * i + 1)
        if i < broken:
            response = response.replace("</Goal>\n", "")
        text = f"{i}+1={i + 1}. {2 * i}+1={2 * i + 1}."
        records.append(Record(f"r{i}", ({"role": "user", "content": f"{i} and {2 * i}?"},), response, text, "", "test"))
    write_records(path, records)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a model, data and a preset for them."""
    monkeypatch.chdir(tmp_path)
    config = tiny_config(hidden_size=32, intermediate_size=64)
    write_gguf_model(
        tmp_path / "tiny.gguf",
        config,
        tiny_tensors(config),
        kind="F32",
        change=lambda writer: writer.add_eot_token_id(0),
    )
    make_records(tmp_path / "data.jsonl")
    (tmp_path / "preset.py").write_text(
        "from mvjax.training.config import TrainConfig\n"
        'config = TrainConfig(name="tiny").replace(model={"path": "tiny.gguf"}, lora={"rank": 2}, loss={"chunk": 64},\n'
        '    data={"files": ("data.jsonl",), "row_length": 512, "rows": 2, "levels": 2}, steps={"total": 3},\n'
        '    optimizer={"learning_rate": 1e-2}, checkpoints={"every": 2}, output={"tensorboard": False})\n'
    )
    return tmp_path


def train(*arguments):
    return main(["train", *map(str, arguments)])


@pytest.mark.slow
def test_full_run_in_bfloat16_leaves_a_model_directory(place):
    """From a directory without a tokenizer; the base model's generation_config.json goes with the trained one."""
    start = load_checkpoint(place / "tiny.gguf")
    assert start.generation["eos_token_id"] != start.config["eos_token_id"]  # more than the configuration says
    start = replace(start, generation=start.generation | {"temperature": 0.25})
    save_checkpoint(place / "base", start)
    options = ("--lora.rank", 0, "--model.dtype", "bfloat16", "--data.form", "autoregressive", "--steps.total", 2)
    paths = ("--model.path", "base", "--model.tokenizer", "tiny.gguf", "--data.store", "encoded")
    assert train("preset.py", *options, *paths) == 0
    assert [path.is_dir() for path in (place / "encoded").iterdir() if not path.name.startswith(".")] == [True]
    assert not (place / "runs" / ".tokens").exists()
    trained = place / "runs" / "tiny" / "model"
    checkpoint = load_checkpoint(trained)
    assert checkpoint.generation == start.generation
    name = "model.layers.0.mlp.up_proj.weight"
    assert np.asarray(checkpoint.tensors[name]).dtype == np.float32
    assert np.abs(np.asarray(checkpoint.tensors[name]) - np.asarray(start.tensors[name])).max() > 1e-3
    _, decoder = load_with_tags(place / "runs" / "tiny" / "model")
    assert decoder.config.vocab_size == 272
    assert main(["export", "runs/tiny", "--output", "exported"]) == 0
    assert {path.name for path in trained.iterdir()} == {path.name for path in (place / "exported").iterdir()}
    exported = load_checkpoint("exported")
    assert (exported.config, exported.generation) == (checkpoint.config, checkpoint.generation)
    assert all(np.array_equal(exported.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())


@pytest.mark.slow
def test_passes_decide_the_steps_and_restart_and_overrides_work(place, capsys):
    passes = ("--steps.total", 0, "--data.repeat", 2, "--name", "other", "--steps.passes")
    assert train("preset.py", *passes, 1) == 0
    steps = json.loads((place / "runs/other/metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert train("preset.py", *passes, 2) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: runs/other: this run was started with another configuration (steps.passes was 1")
    assert error.count("\n") == 1
    assert train("preset.py", *passes, 2, "--restart") == 0
    more = json.loads((place / "runs/other/metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert 1 < steps < more


SIZES = ("--steps.total", "24", "--data.row-length", "256", "--data.rows", "1")


def train_with_a_break(place):
    """Ctrl-C to the process itself, at the second step's line; the same command then goes on."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "PYTHONUNBUFFERED": "1"}
    script = "import sys; from mvjax.cli.main import run; run()"
    command = [sys.executable, "-c", script, "train", "preset.py", *SIZES, "--name", "cut"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 2/"):
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "SIGINT: saving after this step" in rest
    assert "stopped; the same command resumes it" in rest
    assert not (place / "runs/cut/adapter.safetensors").exists()
    assert train("preset.py", *SIZES, "--name", "cut") == 0
    return place / "runs" / "cut"


@pytest.mark.slow
def test_lora_runs_whole_and_interrupted_leave_the_same_adapter(place, capsys):
    run = train_with_a_break(place)
    assert train("preset.py", *SIZES, "--name", "whole") == 0
    cut, whole = (load_file(path / "adapter.safetensors") for path in (run, place / "runs" / "whole"))
    assert cut.keys() == whole.keys()
    for name in cut:
        np.testing.assert_array_equal(cut[name].view(np.uint8), whole[name].view(np.uint8))
    capsys.readouterr()
    assert train("preset.py", *SIZES, "--name", "whole") == 0  # another start finds it finished
    assert "resumed at step 24" in capsys.readouterr().out


def test_a_lora_run_leaves_an_adapter_that_changes_the_model(place):
    assert train("preset.py", *SIZES, "--name", "whole") == 0
    run = place / "runs" / "whole"
    assert {"config.json", "metrics.jsonl", "checkpoints", "adapter.safetensors"} <= {p.name for p in run.iterdir()}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 25)]
    assert all(line[f"loss_{part}"] > 0 for line in lines for part in ("sequential", "path", "tag", "conclusion"))
    assert lines[-1]["loss"] < lines[0]["loss"]
    tokenizer, decoder = load_with_tags(place / "tiny.gguf")
    before = np.asarray(decoder.head.matrix()).copy()
    merge(load_adapter(run / "adapter.safetensors", decoder, tokenizer=tokenizer.fingerprint))
    changed = np.flatnonzero(np.abs(np.asarray(decoder.head.matrix()) - before).max(1))
    assert list(changed) == sorted(tokenizer.tag_ids)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "nowhere.py: cannot be read"),
        (["--steps.total", "3"], "the configuration comes first"),
        (["preset.py", "--steps.totl", "3"], "there is no field --steps.totl; did you mean --steps.total?"),
        (["preset.py", "--steps", "3"], "config: --steps is now --steps.total"),
        (["preset.py", "--learning-rate=3"], "config: --learning-rate is now --optimizer.learning-rate"),
        (["preset.py", "--no-tensorboard"], "config: --no-tensorboard is now --output.tensorboard"),
        (["preset.py", "--output.no-log-every"], "there is no field --output.no-log-every"),
        (["preset.py", "--wonder", "3"], "there is no field --wonder; mvjax train --help lists them"),
        (["preset.py", "--steps.total", "many"], "--steps.total many: the value must be a whole number, 0 or more"),
        (["preset.py", "5"], "what is '5' for?"),
        (["preset.py", "--data.rows", "0"], "data.rows = 0 must be a whole number, 1 or more"),
        (["preset.py", "--model.dtype", "float8"], "--model.dtype float8: the value must be one of float32, bfloat16"),
        (["preset.py", "--data.form", "tree"], "--data.form tree: the value must be one of multiverse, autoregressive"),
        (["preset.py", "--optimizer.learning-rate", "nan"], "optimizer.learning_rate = nan must be a finite number"),
        (["preset.py", "--data.curriculum", "0.5", "2"], "data.curriculum = (0.5, 2.0) must be a tuple"),
        (["preset.py", "--data.repeat", "1", "2"], "data.repeat = (1, 2) must have one number"),
        (["preset.py", "--name", "a/b"], "name = 'a/b' must be a plain directory name"),
        (["bare.py"], "config: model.path is not set; give --model.path"),
        (["bare.py", "--model.path", "tiny.gguf"], "config: data.files is not set; give --data.files"),
        (["preset.py", "--model.tokenizer", "gone.model"], "gone.model"),
        (["preset.py", "--model.path", "gone.gguf"], "gone.gguf"),
        (["preset.py", "--data.files", "gone.jsonl"], "gone.jsonl"),
        (["preset.py", "--data.row-length", "32"], "more than the row of 32"),
        (["preset.py", "--lora.targets", "q_proj", "x_proj"], "there is no linear layer 'x_proj'"),
        (["preset.py", "--mesh.fsdp", "99"], "= 99 chips"),
        (["empty.py"], "empty.py: has no `config = TrainConfig(...)`"),
        (["wrong.py"], "wrong.py: is no valid configuration: TrainConfig got an unexpected keyword argument 'stepz'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(place, capsys, arguments, message):
    (place / "empty.py").write_text("x = 1\n")
    (place / "bare.py").write_text("from mvjax.training.config import TrainConfig\nconfig = TrainConfig()\n")
    (place / "wrong.py").write_text("from mvjax.training.config import TrainConfig\nconfig = TrainConfig(stepz=3)\n")
    assert train(*arguments) == 2
    out = capsys.readouterr()
    assert out.err.startswith("error: ")
    assert message in out.err
    assert out.err.count("\n") == 1
    assert not set((place / "runs").glob("*")) - {place / "runs" / ".tokens"}  # The encoded records may stay.


def test_what_the_configuration_says_of_data_reaches_the_pipeline(place):
    data = {"curriculum": (0.5, 0.25), "repeat": (3,), "equal_records": True, "max_bad_share": 0.25, "rows": 4}
    config = load_config(Path("preset.py")).replace(seed=5, data={**data, "row_length": 256, "levels": 3})
    tokenizer = load_tokenizer("tiny.gguf").with_control_tags()
    sources = [find_data(name) for name in config.data.files]
    dataset = training.load_data(config, sources, tokenizer, make_placement(config.mesh), HostSync())
    wanted = {"row_length": 256, "rows": 4, "levels": 3, "shares": (0.5, 0.25), "seed": 5}
    assert vars(dataset.config).items() >= (wanted | {"equal_records": True, "max_bad_share": 0.25}).items()
    assert dataset.schedule.curriculum.length == 3 * 12
    sequential = config.replace(data={"form": "autoregressive"})
    assert training.load_data(
        sequential, sources, tokenizer, make_placement(config.mesh), HostSync()
    ).config.shares == (0.0,)


def test_what_the_configuration_says_of_samples_reaches_the_sampler(place, monkeypatch):
    def fit(*_, make_sampler, **__):
        raise UserError(repr(make_sampler.keywords))

    monkeypatch.setattr(training, "fit", fit)
    output = {"sample_every": 7, "sample_prompt": "Why?", "sample_tokens": 9}
    config = load_config(Path("preset.py")).replace(output=output, data={"form": "autoregressive"})
    wanted = {"every": 7, "prompt": "Why?", "tokens": 9, "form": "autoregressive", "dtype": "float32"}
    with pytest.raises(UserError, match=re.escape(repr(wanted))):
        training.train(config)


def test_passes_decide_the_steps_where_none_are_given(place, monkeypatch, capsys):
    def fit(config, model, placement, batches, steps, **_):
        raise UserError(str(steps))

    monkeypatch.setattr(training, "fit", fit)
    few = ("--steps.total", 0, "--data.repeat", 2)
    assert train("preset.py", *few) == train("preset.py", *few, "--steps.passes", 3) == 2
    one, three = (int(line.removeprefix("error: ")) for line in capsys.readouterr().err.splitlines())
    assert 1 <= one < three


def test_malformed_records_are_left_out_and_too_many_end_the_run(place, monkeypatch, capsys):
    def fit(config, model, placement, batches, *_, **__):
        assert next(batches).tokens_BT.shape == (2, 512)
        raise UserError("a batch has come")

    make_records(place / "data.jsonl", broken=2)
    assert train("preset.py") == 2
    error = capsys.readouterr().err
    assert "2 of 12 records" in error
    assert "r0" in error
    monkeypatch.setattr(training, "fit", fit)
    assert train("preset.py", "--data.max-bad-share", "0.2") == 2
    assert capsys.readouterr().err == "error: a batch has come\n"


def test_help_lists_every_field_with_its_meaning_and_the_presets_value(place, capsys):
    assert train("--help") == 0
    text = capsys.readouterr().out
    assert "--optimizer.learning-rate (1e-05)\n      Peak learning rate." in text
    assert "\noptimizer: AdamW and its schedule.\n" in text
    assert train("preset.py", "--help") == 0
    assert "--optimizer.learning-rate (0.01)" in capsys.readouterr().out


@pytest.mark.parametrize("preset", sorted((ROOT / "configs").glob("*.py")), ids=lambda path: path.stem)
def test_presets_load_and_say_how_they_are_run(preset):
    config = load_config(preset).validate()
    assert config.name == preset.stem
    assert f"mvjax train configs/{preset.name}" in preset.read_text()
    assert "Hardware:" in preset.read_text()


def test_twins_differ_in_form_alone():
    demo, twin = (load_config(ROOT / "configs" / f"{name}.py") for name in ("demo", "demo_autoregressive"))
    assert twin.replace(name=demo.name, data={"form": demo.data.form}) == demo


def test_switches_take_a_word_and_other_fields_keep_theirs():
    from mvjax.training.config import TrainConfig
    from mvjax.training.config_file import override

    for words, value in (
        (["--output.tensorboard", "False"], False),
        (["--output.tensorboard=true"], True),
        (["--output.no-tensorboard"], False),
        (["--output.tensorboard"], True),
    ):
        assert override(TrainConfig().replace(output={"tensorboard": not value}), words).output.tensorboard is value
    assert override(TrainConfig(), ["--name", "true"]).name == "true"
    with pytest.raises(UserError, match="must be True or False"):
        override(TrainConfig(), ["--output.tensorboard", "perhaps"])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's tunables")
@pytest.mark.parametrize(("before", "after"), [(None, "glibc.malloc.hugetlb=1"), ("glibc.malloc.check=0", None)])
def test_memory_comes_in_huge_pages_unless_the_user_tunes_it(tmp_path, before, after):
    (tmp_path / "preset.py").write_text("import os\nprint(os.getpid(), os.environ['GLIBC_TUNABLES'])\n")
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    if before:
        environment["GLIBC_TUNABLES"] = before
    command = [sys.executable, "-c", "from mvjax.cli.main import run; run()", "train", "preset.py"]
    ran = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert ran.communicate(timeout=60)[0].split() == [str(ran.pid), after or before]
