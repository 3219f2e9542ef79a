"""Standard streams that are closed, or whose reader has gone: an exit status and at most one line, for every verb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mvjax.cli.main import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from mvjax.cli.main import run; run()"]


def start(words, closed="", **streams):
    """Run the command; `closed`: redirections of a shell, which closes streams without a fork of this process."""
    environment = os.environ | {"GLIBC_TUNABLES": "", "PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}"}
    environment.pop("PYTHONUNBUFFERED", None)  # it would hide what is left to write when the process ends
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *words] if closed else [*COMMAND, *words]
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=100, check=False, **streams)


@pytest.fixture
def unread():
    """A pipe that nobody reads."""
    read, write = os.pipe()
    os.close(read)
    yield write
    os.close(write)


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory):
    """A long transcript, which is written while it is shown, and a short one, which is written at the end."""
    place = tmp_path_factory.mktemp("transcripts")
    (place / "long").write_text("a line of text\n" * 5000)
    (place / "short").write_text("text")
    return place


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["inspect", "{place}/long"],
        ["inspect", "{place}/short"],
        ["inspect", "{place}/short", "--json"],
        ["train", "--help"],
        ["generate", "--help"],
        ["plan", "--help"],
        ["curate", "gsm8k", "--help"],
    ],
    ids=" ".join,
)
def test_output_into_a_reader_that_has_gone(transcripts, unread, words):
    words = [word.format(place=transcripts) for word in words]
    done = start(words, stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")


def test_errors_into_a_reader_that_has_gone(unread):
    assert start(["nonsense"], stdout=unread, stderr=unread).returncode == 141


def test_an_error_is_shown_although_nobody_reads_the_output(unread):
    done = start(["nonsense"], stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_closed_standard_input_is_empty(monkeypatch, capsys):
    done = start(["inspect", "-"], "<&-", capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: standard input: is empty")
    assert done.stderr.count(b"\n") == 1
    monkeypatch.setattr(sys, "stdin", None)  # what Python makes of it
    assert main(["generate"]) == 2
    assert capsys.readouterr().err == "error: standard input holds no prompt\n"


def test_closed_outputs_swallow_what_is_written(transcripts, tmp_path):
    """And a file that is opened meanwhile gets none of it."""
    picture = tmp_path / "mask.png"
    words = ["inspect", f"{transcripts}/short", "--picture", str(picture)]
    assert start(words, ">&- 2>&-").returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert start(["nonsense"], "<&- >&- 2>&-").returncode == 2


def test_a_pipe_that_breaks_elsewhere_is_an_error(monkeypatch, capsys):
    def broken(argv):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("mvjax.cli.curate.main", broken)
    assert main(["curate"]) == 2
    assert capsys.readouterr().err == "error: Broken pipe\n"
