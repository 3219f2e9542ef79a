"""The one-host launch: checks before the start, and restarts after crashes only."""

import os
import subprocess
from pathlib import Path

import pytest

HOST = Path(__file__).parents[2] / "launch" / "host"


def launch(tmp_path, *arguments, statuses=()):
    """Run the script with a stand-in for mvjax that ends with each of these statuses in turn."""
    programs = tmp_path / "bin"
    programs.mkdir()
    count = tmp_path / "count"
    count.write_text("0")
    listed = " ".join(map(str, statuses))
    (programs / "mvjax").write_text(
        f"#!/usr/bin/env bash\nn=$(cat {count}); echo $((n + 1)) > {count}\n"
        f'statuses=({listed}); echo "$@"; exit "${{statuses[$n]}}"\n'
    )
    (programs / "mvjax").chmod(0o755)
    path = f"{programs}:/usr/bin:/bin"
    environment = {"PATH": path, "MVJAX_LOGS": str(tmp_path / "logs"), "MVJAX_RESTARTS": "2"}
    return subprocess.run(
        [str(HOST), *arguments], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def config(tmp_path):
    file = tmp_path / "config.py"
    file.write_text("")
    return str(file)


def test_a_crash_is_retried_and_options_are_passed_on(tmp_path, config):
    done = launch(tmp_path, config, "--steps", "3", statuses=(1, 0))
    assert done.returncode == 0
    assert done.stdout.count(f"train {config} --steps 3") == 2
    assert len(list((tmp_path / "logs").iterdir())) == 2


def test_it_gives_up(tmp_path, config):
    done = launch(tmp_path, config, statuses=(1, 1, 1))
    assert done.returncode == 1
    assert "given up after 2 restarts" in done.stderr


@pytest.mark.parametrize("status", [2, 130])
def test_mistakes_and_interruptions_are_not_retried(tmp_path, config, status):
    done = launch(tmp_path, config, statuses=(status, 0))
    assert done.returncode == status
    assert (tmp_path / "count").read_text().strip() == "1"


def test_dry_run_and_missing_things(tmp_path, config):
    assert "would run: mvjax train" in launch(tmp_path, "--dry-run", config, statuses=(1,)).stdout
    assert not (tmp_path / "logs").exists()


def test_a_missing_configuration_is_named(tmp_path):
    done = launch(tmp_path, "nowhere.py", statuses=(0,))
    assert done.returncode == 2
    assert "nowhere.py" in done.stderr
