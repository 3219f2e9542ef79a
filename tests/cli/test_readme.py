"""The README's commands and its Python: what can run in seconds is run, as it stands there; the rest is taken apart."""

import contextlib
import json
import re
import shlex
import shutil
from importlib import resources
from pathlib import Path

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line.split("#")[0].strip() for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("mvjax ")]
RUN = ("inspect", "convert", "curate")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the commands name."""
    config = tiny_config(hidden_size=32, intermediate_size=64)
    write_gguf_model(tmp_path / "model.gguf", config, tiny_tensors(config))
    sample = resources.files("mvjax") / "assets" / "gsm8k_sample.jsonl"
    shutil.copy(str(sample), tmp_path / "train.jsonl")
    trace = {"id": "1", "question": "1+1? 2+2?", "reasoning": "1+1=2. 2+2=4. The answer is 2, 4.", "answer": "2, 4"}
    (tmp_path / "traces.jsonl").write_text(json.dumps(trace))
    (tmp_path / "transcript.txt").write_text(
        "Two parts.\n<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n<Outline>\n2: b\n</Outline>\n</Goal>\n"
        "<Path>\n1: one\n</Path>\n<Path>\n2: two\n</Path>\n<Conclusion>\nboth\n</Conclusion>\n</Parallel>\nDone."
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_verb_is_shown():
    assert {command.split()[1] for command in COMMANDS} >= set(VERBS) - {"bench"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] in RUN])
def test_command_runs(place, command, capsys):
    assert main(shlex.split(command)[1:]) == 0
    assert "error" not in capsys.readouterr().err
    named = re.findall(r"(?:--output|--picture) (\S+)", command)
    named += [command.split()[3]] if "convert" in command else []
    for path in named:
        assert (place / path).exists()


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.split()[1] not in RUN])
def test_options_exist(command, capsys):
    verb, *words = shlex.split(command)[1:]
    with contextlib.suppress(SystemExit):
        main([verb, "--help"])
    shown = capsys.readouterr().out
    for flag in re.findall(r"--[a-z-]+", " ".join(words)):
        assert flag in shown
    for file in re.findall(r"configs/\S+", command):
        assert (ROOT / file).exists()


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in LINES + re.findall(r"`(make [a-z-]+)`", README):
        if line.startswith("make "):
            target = line.split()[1]
            assert target in targets or target.startswith("test-")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_python_names_what_there_is(code):
    """The imports work and the rest can be parsed; it is not run, for it needs the model."""
    imports = [line for line in code.splitlines() if line.startswith(("from ", "import "))]
    assert imports
    exec("\n".join(imports), {})
    compile(code, "README.md", "exec")
