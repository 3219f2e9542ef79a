"""Plans of real presets and shapes, compiled for TPUs and GPUs that are not here."""

import json
import os
import re
import runpy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from mvjax.chips import GIB
from mvjax.errors import UserError
from mvjax.models.tensors import parameter_count
from mvjax.planning.generation import Load, describe_service, plan_generation
from mvjax.planning.machines import machine
from mvjax.planning.plan import Plan, make_plan
from mvjax.planning.shapes import find_shape
from mvjax.training.config import TrainConfig
from mvjax.training.flops import ModelFlops

pytestmark = pytest.mark.aot

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
QUICK = ("multiverse_32b_v5p", "multiverse_32b_h100_lora")
SAME = ("autoregressive_32b_v5p", "demo_autoregressive")
"""Twins, whose step is that of the other."""
KINDS = ("weights", "optimizer", "batch", "activations", "gradients", "rest", "code")


def plan_preset(name: str) -> Plan:
    """As `mvjax plan` makes it; kinds of memory add up, it fits, and its docstring says so."""
    values = runpy.run_path(str(CONFIGS / f"{name}.py"))
    plan = make_plan(values["config"], find_shape("shape:" + values["shape"]), machine(values["topology"]))
    memory = asdict(plan.memory)
    assert sum(memory[kind] for kind in KINDS) == memory["total"]
    assert min(memory[kind] for kind in KINDS) >= 0
    assert plan.memory.fits
    stated = re.search(r"^HBM: ([\d.]+) GiB", values["__doc__"], re.M)
    assert float(stated[1]) == pytest.approx(memory["total"] / GIB, rel=0.1)
    return plan


def check_work(plan: Plan, row_length: int, tokens: float) -> None:
    """The work of a chip, `tokens` of a step's on each, is that of the model and what remat "full" does again."""
    config = plan.step.shape.config
    need = ModelFlops.of(config)
    # Products of a layer are done again going back, but for the last one, whose result nobody needs.
    again = 2 * (need.projections - config.layers * config.embed * config.ffn) * tokens
    assert plan.work.products == pytest.approx(6 * (need.projections + need.head) * tokens + again, rel=0.01)
    # Attention: 2 products forward, twice; 7 backward; 6 of these 11 are needed.
    assert plan.work.attention == pytest.approx(11 / 6 * 12 * need.attention * tokens * row_length / 2, rel=0.01)


def test_the_paper_s_recipe_on_a_v5p_slice():
    plan = plan_preset("multiverse_32b_v5p")
    memory, parameters = plan.memory, plan.step.parameters
    assert memory.total <= 34.3 * GIB
    # Float32 weights over 128 chips but for norms and biases, Adam's two moments, and the gradients of the layers.
    assert 4 * parameters / 128 <= memory.weights < 1.01 * 4 * parameters / 128
    assert memory.optimizer == pytest.approx(2 * memory.weights, rel=1e-4)
    # The inputs of 64 layers: one row of 32,768 tokens on each part of fsdp, in bfloat16, over tensor 4.
    assert memory.activations == 64 * 32768 * 5120 * 2 / 4
    assert {found.axes for found in plan.collectives} <= {("fsdp",), ("tensor",), ("fsdp", "tensor")}
    # Layers' weights in bfloat16, those of a quarter of the heads, gathered forward and backward.
    layers = parameters - 2 * 152064 * 5120
    gathered = sum(x.nbytes for x in plan.collectives if x.kind == "all-gather" and x.axes == ("fsdp",))
    assert gathered == pytest.approx(2 * 2 * layers / 4 * 31 / 32, rel=0.05)
    check_work(plan, row_length=32768, tokens=32 * 32768 / 128)
    assert 0.3 < plan.mfu < 1


def test_adapters_of_32b_on_eight_h100():
    plan = plan_preset("multiverse_32b_h100_lora")
    given = plan.step.arguments
    frozen = given.weights - given.trained
    assert frozen == pytest.approx(2 * plan.step.parameters / 8, rel=0.01)
    assert plan.memory.activations == 64 * 32768 * 5120 * 2
    assert {found.axes for found in plan.collectives} == {("fsdp",)}
    assert 1.3 < plan.work.flops / (plan.model_flops / 8) < 1.6


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({path.stem for path in CONFIGS.glob("*.py")} - {*QUICK, *SAME}))
def test_every_other_preset_fits(name):
    plan_preset(name)


@pytest.mark.parametrize("name", SAME)
def test_twins_have_the_same_step(name):
    first, twin = (
        runpy.run_path(str(CONFIGS / f"{stem}.py"))["config"]
        for stem in (name, {"demo_autoregressive": "demo"}.get(name, "multiverse_32b_v5p"))
    )
    data = {"form": twin.data.form, "equal_records": twin.data.equal_records}
    assert first.replace(name=twin.name, data=data) == twin


SMALL = find_shape("shape:smollm2-135m")
STEP = TrainConfig().replace(
    name="small",
    data={"rows": 8, "row_length": 2048},
    mesh={"fsdp": 4},
    model={"remat": "full", "dtype": "bfloat16"},
    loss={"chunk": 512},
)


@pytest.mark.slow
def test_work_on_a_small_slice():
    plan = make_plan(STEP, SMALL, machine("v5e:2x2"))
    check_work(plan, row_length=2048, tokens=8 * 2048 / 4)
    assert plan.times.bound >= plan.times.compute > 0


@pytest.mark.slow
def test_what_the_compiler_refuses():
    """What it says it has is what the plan says there is."""
    plan = make_plan(
        STEP.replace(data={"rows": 64, "row_length": 8192}, model={"remat": "none"}), SMALL, machine("v5e:2x2")
    )
    assert not plan.memory.fits
    assert plan.memory.total > plan.memory.room == 15.75 * GIB
    assert plan.work is None


@pytest.mark.parametrize("name", ["v5e:2x2", pytest.param("h100:1", marks=pytest.mark.slow)])
def test_generation(name):
    shape = find_shape("shape:qwen2.5-1.5b")
    plan = plan_generation(describe_service(shape, machine(name)), Load(requests=8))
    assert plan.service.chips == 1
    assert plan.weights == pytest.approx(2 * parameter_count(shape.config), rel=0.01)
    assert plan.pages == (1 + 8 * 4096 // 128) * 128 * 28 * 2 * 2 * 128 * 2
    assert plan.weights + plan.pages + plan.state + plan.rest + plan.compiled.code == plan.compiled.total
    assert plan.fits
    assert plan.rest < plan.pages
    assert not plan.step.collectives
    assert not plan.step.weight_copies
    # The whole chip but for a margin of two pages.
    held = plan.weights + plan.state + plan.rest + plan.compiled.code
    page = 28 * 2 * 2 * 128 * 128 * 2
    assert plan.room - 2 * page < held + (plan.tokens // 128 + 1) * page <= plan.room
    assert plan.times.bound >= (plan.weights + plan.pages) / plan.service.machine.chip.bandwidth


@pytest.mark.parametrize(
    ("topology", "slices", "message"),
    [("v5p:3x5x7", 1, "libtpu knows no slice 'v5p:3x5x7'"), ("v6e:3x3", 1, "libtpu knows no slice 'v6e:3x3'")],
)
def test_slices_that_do_not_exist(topology, slices, message):
    with pytest.raises(UserError, match=message):
        machine(topology, slices)


def test_nothing_but_the_message_is_printed():
    """libtpu does not complain of the machine that it runs on."""
    hidden = ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_WORKER_HOSTNAMES", "TPU_ACCELERATOR_TYPE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    command = [sys.executable, "-c", "from mvjax.cli.main import run; run()", "plan", "configs/multiverse_32b_v5p.py"]
    done = subprocess.run(
        [*command, "--topology", "v5e:4x4"], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "error: mesh: data 1 x fsdp 32 x context 1 x tensor 4 = 128 chips, but there are 16; change mesh.data, "
        "mesh.fsdp, mesh.context or mesh.tensor\n"
    )


@pytest.mark.slow
def test_json_of_several_slices(capsys):
    from mvjax.cli.main import main

    words = [
        "--topology",
        "v5e:2x2",
        "--mesh.slices",
        "2",
        "--model.path",
        "shape:smollm2-135m",
        "--data.accumulation",
        "1",
    ]
    assert main(["plan", str(CONFIGS / "demo.py"), *words, "--data.rows", "8", "--mesh.fsdp", "4", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["slices"], plan["chips"], plan["mesh"]["data"]) == (2, 8, 2)
    assert any("data" in found["axes"] for found in plan["collectives"])
