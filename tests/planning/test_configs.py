"""The presets of configs/: what their docstrings say, and that their meshes fit their machines."""

import ast
import math
import re
import runpy
from pathlib import Path

import pytest

from mvjax.chips import CHIPS
from mvjax.cli.plan import split
from mvjax.planning.machines import machine
from mvjax.planning.program import describe_step
from mvjax.planning.shapes import SHAPES, find_shape
from mvjax.training.config import TrainConfig
from mvjax.training.config_file import load_config, override
from mvjax.training.mesh import mesh_shape

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
PARTS = ("Command", "Hardware", "HBM", "Result")


@pytest.fixture(params=CONFIGS, ids=lambda path: path.stem)
def preset(request) -> tuple[Path, dict]:
    return request.param, runpy.run_path(str(request.param))


def test_there_are_presets():
    assert len(CONFIGS) >= 10


def test_the_docstring_says_command_chips_memory_and_result(preset):
    path, values = preset
    parts = dict(re.findall(rf"^({'|'.join(PARTS)}): (.+)$", ast.get_docstring(ast.parse(path.read_text())), re.M))
    assert tuple(parts) == PARTS
    assert f"mvjax train configs/{path.name}" in parts["Command"]
    kind, _, count = values["topology"].partition(":")
    if kind != "cpu":
        words = f"{count} x {kind.upper()}" if CHIPS[kind].platform == "gpu" else values["topology"]
        assert words in parts["Hardware"]
        # As `mvjax plan` prints it: what is needed, of what there is.
        need, room = map(float, re.match(r"([\d.]+) GiB of ([\d.]+) on each chip", parts["HBM"]).groups())
        assert need < room == pytest.approx(CHIPS[kind].hbm / 2**30, abs=0.006)
        assert f"mvjax plan configs/{path.name}" in parts["HBM"]


def commands() -> list[tuple[str, str, str]]:
    """`mvjax train` and `mvjax plan` with a preset, as the docstrings and the pages say: verb, preset, options."""
    pages = [ROOT / "README.md", ROOT / "launch" / "README.md", *(ROOT / "docs").glob("*.md"), *CONFIGS]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    return sorted(set(re.findall(r"mvjax (train|plan) (configs/\w+\.py)((?: --[\w.-]+(?: (?!--)[\w./:-]+)?)*)", text)))


@pytest.mark.parametrize(("verb", "name", "options"), commands())
def test_commands_are_accepted(verb, name, options):
    words = options.split()
    fields = split(words).fields if verb == "plan" else words
    assert isinstance(override(load_config(ROOT / name), fields).validate(), TrainConfig)


def test_the_name_is_that_of_the_file(preset):
    path, values = preset
    assert values["config"].name == path.stem
    assert values["shape"] in SHAPES
    assert isinstance(load_config(path).validate(), TrainConfig)


def test_the_mesh_fits_the_machine_and_the_rows_the_mesh(preset):
    config, topology = preset[1]["config"], preset[1]["topology"]
    chips = math.prod(int(size) for size in topology.split(":")[1].split("x"))
    data, fsdp, *_ = mesh_shape(config.mesh, chips)
    assert config.data.rows % (config.data.accumulation * data * fsdp) == 0


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.startswith("demo")], ids=lambda path: path.stem)
def test_the_demo_s_step_can_be_described(path):
    values = runpy.run_path(str(path))
    step = describe_step(values["config"], find_shape("shape:" + values["shape"]), machine(values["topology"]))
    assert step.possible
    assert step.parameters == 134_515_008 + 12 * 576


@pytest.mark.aot
def test_every_step_can_be_described(preset):
    path, values = preset
    step = describe_step(values["config"], find_shape("shape:" + values["shape"]), machine(values["topology"]))
    assert step.possible, path
