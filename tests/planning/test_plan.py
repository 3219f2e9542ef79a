"""A plan: memory by kind, work and collectives of a step, in numbers and in words."""

import re

import pytest
from tiny_plans import TINY, made_up, tiny_config, tiny_machine, tiny_step

from mvjax.errors import UserError
from mvjax.models.tensors import parameter_count
from mvjax.planning.advice import Advice
from mvjax.planning.machines import machine
from mvjax.planning.memory import Memory
from mvjax.planning.plan import make_plan
from mvjax.planning.program import describe_step
from mvjax.planning.report import to_json, to_text

KINDS = ("weights", "optimizer", "batch", "activations", "gradients", "rest", "code")
LAYERS, EMBED, ROW = 3, 32, 64

group = pytest.mark.xdist_group("planning")


@group
def test_memory_by_kind_of_a_sharded_step(sharded_plan):
    plan = sharded_plan["json"]
    hbm = plan["hbm"]
    assert sum(hbm[kind] for kind in KINDS) == hbm["total"]
    assert plan["fits"]
    assert hbm["margin"] == hbm["room"] - hbm["total"]
    # Weights lie over fsdp 2 x tensor 2 but for norms and biases; Adam has two numbers for each.
    matrices = 4 * plan["parameters"] / 4
    assert matrices < hbm["weights"] < 1.05 * matrices
    assert 2 * hbm["weights"] <= hbm["optimizer"] < 2 * hbm["weights"] + 100
    # One row of a micro-batch on each (data, fsdp), its embed axis over tensor; the inputs of the layers are kept.
    assert hbm["activations"] == 4 * LAYERS * ROW * EMBED / 2
    # Those of one micro-batch, and the sum over micro-batches.
    of_layers = 4 * (plan["parameters"] - 2 * 64 * EMBED - EMBED) / 4
    assert 2 * of_layers < hbm["gradients"] < 2.1 * of_layers


@group
def test_work_and_collectives_of_a_sharded_step(sharded_plan):
    plan = sharded_plan["json"]
    assert plan["mesh"] == {"data": 2, "fsdp": 2, "context": 1, "tensor": 2}
    need = plan["model_flops_all_chips"] / 8
    assert need < plan["work"]["flops"] < 2 * need
    axes = {tuple(found["axes"]) for found in plan["collectives"]}
    assert {("fsdp",), ("tensor",)} <= axes
    assert any("data" in names for names in axes)
    # The weights of the layers are gathered at least once going forward and once going back, in each micro-batch.
    gathered = sum(x["nbytes"] for x in plan["collectives"] if x["axes"] == ["fsdp"] and x["kind"] == "all-gather")
    of_layers = 4 * (plan["parameters"] - 2 * 64 * EMBED - EMBED) / 4
    assert gathered >= 2 * 2 * 0.95 * of_layers
    assert "estimate" not in plan


@group
def test_the_page(sharded_plan):
    text = sharded_plan["text"]
    assert "tiny: a tiny model, 0.0276 million weights" in text
    assert "8 rows of 64 tokens in 2 micro-batches, float32 over weights in float32, remat full" in text
    assert re.search(r"cpu:8, 8 chips, data 2 x fsdp 2 x tensor 2; compiled in \d+ s, not run", text)
    assert "Sent by a chip in a step" in text
    assert re.search(r"all-gather +fsdp ", text)


def test_what_the_model_needs_is_counted_by_hand():
    plan = made_up(tiny_step(), 10**6)
    from mvjax.planning.estimate import model_flops

    config, tokens = TINY.config, 8 * 64
    projections = 3 * 32 * (2 * 4 * 8 + 2 * 2 * 8 + 3 * 48)
    attention = 12 * 3 * 4 * 8 * tokens * 64 / 2
    assert model_flops(plan.step) == 6 * (projections + config.vocab_size * 32) * tokens + attention


def test_arguments_of_a_step_on_one_device():
    step = tiny_step()
    assert step.parameters == parameter_count(TINY.config)
    assert step.arguments.weights == step.arguments.trained == 4 * step.parameters
    assert step.arguments.batch == 8 * 64 * 4 * (2 + 2 * 2 + 3) + 8 * 64
    halved = tiny_step(model={"master_dtype": "bfloat16", "dtype": "bfloat16"}).arguments
    assert halved.weights == step.arguments.weights / 2
    adapters = tiny_step(lora={"rank": 2})
    assert adapters.adapters == 3 * 2 * ((32 + 32) + 2 * (32 + 16) + (32 + 32) + 3 * (32 + 48))
    tags = 12 * 32 * 2  # Rows of both matrices.
    assert adapters.arguments.trained == 4 * (adapters.adapters + tags)


def test_what_is_too_large_already_is_not_compiled():
    plan = make_plan(tiny_config(), TINY, tiny_machine(300_000))
    assert plan.seconds == 0
    assert not plan.memory.fits
    assert plan.memory.total == plan.step.arguments.total > 300_000
    text = to_text(plan, Advice((), None, 0))
    assert "not compiled" in text
    assert "total of these" in text
    assert "No change makes it fit: take more chips or shorter rows." in text
    assert "alone fill 2 of these chips" in text
    assert not to_json(plan)["compiled"]


def test_what_does_not_fit_is_said():
    plan = made_up(tiny_step(hbm=2**29), 3 * 2**28)
    assert "DOES NOT FIT: 0.25 more than the 0.50 there are" in to_text(plan)
    better = made_up(tiny_step(hbm=2**29, data={"accumulation": 2}), 2**28)
    advice = Advice(("--data.accumulation 2",), better, 1)
    text = to_text(plan, advice)
    assert "The nearest change that fits: --data.accumulation 2\n  0.25 GiB of 0.50, tried 1" in text
    data = to_json(plan, advice)
    assert not data["fits"]
    assert data["hbm"]["margin"] == -(2**28)
    assert data["advice"]["plan"]["fits"]
    assert "None of the 4 nearest changes makes it fit" in to_text(plan, Advice((), None, 4))


def test_room_is_what_may_be_used():
    assert Memory(1, 2, 3, 4, 5, 6, 7, 28, 28.0).fits
    assert not Memory(1, 2, 3, 4, 5, 6, 8, 29, 28.0).fits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mesh": {"fsdp": 2}}, "data 1 x fsdp 2 x context 1 x tensor 1 = 2 chips, but there are 1"),
        ({"model": {"attention": "tpu"}}, "model.attention = 'tpu' does not run on cpu:1"),
    ],
)
def test_steps_that_make_no_sense_on_a_machine(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        describe_step(tiny_config(**fields), TINY, machine("cpu:1"))
