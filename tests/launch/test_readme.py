"""launch/README.md: its commands can be launched, its dry runs are those of the launchers, its variables are all."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "launch" / "README.md").read_text()
LAUNCHERS = ("host", "kubernetes", "local", "serve", "serve_kubernetes", "slurm", "tpu_pod", "worker")
TIME = re.compile(r"\d{8}-\d{6}-\d+")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.M | re.S)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines()]
DRY_RUNS = [block.removeprefix("$ ").partition("\n") for block in blocks("console")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_its_launcher_takes(stage, command):
    launcher, *words = shlex.split(command)
    done = stage.launch(launcher.removeprefix("launch/"), "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert any(word in done.stdout for word in ("demo", "mvjax serve", "kind: Deployment")) or "--" in words


def test_every_launcher_has_a_command_and_is_executable():
    assert {shlex.split(command)[0] for command in COMMANDS} == {f"launch/{n}" for n in LAUNCHERS if n != "worker"}
    for launcher in LAUNCHERS:
        file = ROOT / "launch" / launcher
        assert file.stat().st_mode & 0o111
        assert file.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize(("command", "_", "output"), DRY_RUNS, ids=[run[0].split()[0] for run in DRY_RUNS])
def test_every_dry_run_prints_what_is_shown(stage, command, _, output):
    launcher, *words = shlex.split(command)
    done = stage.launch(launcher.removeprefix("launch/"), *words, MVJAX_LOGS="", MVJAX_SKIP="", MVJAX_GRACE="")
    assert done.returncode == 0, done.stderr
    printed, at = TIME.sub("TIME", done.stdout), 0
    parts = TIME.sub("TIME", output).split("...\n") if "\n...\n" in output else [TIME.sub("TIME", output)]
    for part in parts:
        assert part in printed[at:]
        at = printed.index(part, at) + len(part)
    assert len(parts) > 1 or printed == parts[0]


def test_every_variable_is_described():
    """Those that the launchers read, and no others."""
    read = set()
    for file in (ROOT / "launch").iterdir():
        if file.is_file() and file.suffix in ("", ".py"):
            read |= set(re.findall(r"setting\(\"(MVJAX_\w+)\"|environ\.get\(\"(MVJAX_\w+)\"", file.read_text()))
    names = {name for pair in read for name in pair if name} - {"MVJAX_PROCESS"}
    assert names == set(re.findall(r"^\| (MVJAX_\w+) \|", README, re.M))
