"""The plan of a generation loop: memory by kind, collectives and copies of a step; what is not compiled at all."""

import pytest
from tiny_plans import TINY, tiny_machine

from mvjax.planning import generation
from mvjax.planning.generation import Load, describe_service, plan_generation
from mvjax.planning.generation_report import generation_text
from mvjax.planning.machines import machine
from mvjax.planning.program import Compiled

LAYERS, EMBED, VOCABULARY, ROWS = 3, 32, 64, 4


@pytest.mark.xdist_group("planning")
def test_a_loop_over_two_devices(sharded_plan):
    plan, text = (sharded_plan["generation"][form] for form in ("json", "text"))
    assert (plan["chips"], plan["tensor_parallel"], plan["fits"]) == (8, 2, True)
    assert plan["number_formats"] == dict.fromkeys(("weights", "activations", "kv"), "float32")
    hbm = plan["hbm"]
    assert sum(hbm[kind] for kind in ("weights", "pages", "state", "rest", "code")) == hbm["total"]
    # Norms are whole on each device, and the biases of the projections are split.
    norms = (2 * LAYERS + 1) * EMBED
    assert hbm["weights"] == 4 * ((plan["parameters"] - norms) / 2 + norms)
    # Two requests of two pages and the one that nobody owns; 3 layers, one head of 8 on each device, float32.
    assert hbm["pages"] == 2 * (1 + 4) * LAYERS * 128 * 8 * 4
    free = hbm["margin"] + hbm["pages"]
    assert free - 2 * hbm["pages"] / 5 < plan["kv_tokens_that_fit"] * hbm["pages"] / 5 / 128 <= free
    step = plan["step"]
    sums = (2 * LAYERS + 1) * 2 * 1 / 2 * EMBED * ROWS * 4
    gathered = VOCABULARY / 2 * ROWS * 4
    asked = {found["kind"]: (found["count"], found["nbytes"]) for found in step["collectives_asked_for"]}
    assert asked == {"all-reduce": (2 * LAYERS + 1, sums), "all-gather": (1, gathered)}
    assert all(found["axes"] == ["tensor"] for found in step["collectives"])
    assert sum(found["nbytes"] for found in step["collectives"]) <= sums + gathered
    assert step["kernels"]["least"] < step["kernels"]["most"]
    assert "estimate" not in plan
    assert plan["step_seconds_at_least"] is None
    assert "2 requests of 2 branches and 200 tokens, tensor parallel 2 on 2 of the 8 chips of cpu:8; compiled" in text
    assert "  collectives of the model    7 all-reduce, 1 all-gather; a chip sends 0.00 MiB" in text


def test_weights_that_do_not_fit_are_not_compiled(monkeypatch):
    monkeypatch.setattr(generation, "compile_on", None)
    said = []
    plan = plan_generation(describe_service(TINY, tiny_machine(50_000)), Load())
    assert not plan.fits
    assert generation.fewer(plan, 4, said.append) == (None, 0)
    assert not said
    text = generation_text(plan, None, 0)
    assert "not compiled" in text
    assert "DOES NOT FIT" in text
    assert "The weights alone do not fit: --tensor-parallel 4 would hold them" in text


def test_a_refused_program_is_a_plan_too(monkeypatch):
    monkeypatch.setattr(generation, "compile_on", lambda *_: Compiled(1.0, refused=2**40))
    plan = plan_generation(describe_service(TINY, machine("cpu:1")), Load(1, 1, 128))
    assert not plan.fits
    assert (plan.step, plan.collectives, plan.tokens) == (None, (), 0)
    assert "DOES NOT FIT" in generation_text(plan, None, 0)


def test_numbers_of_weights(monkeypatch):
    """Matrices in a byte a number with a scale for each row, all else in float32."""
    monkeypatch.setattr(generation, "compile_on", lambda *_: Compiled(1.0, "", 2**20))
    plan = plan_generation(describe_service(TINY, machine("cpu:1"), weight_dtype="int8"), Load(1, 1, 128))
    rows = LAYERS * (32 + 2 * 16 + 32 + 2 * 48 + 32) + 2 * VOCABULARY
    matrices = LAYERS * (32 * (2 * 32 + 2 * 16) + 3 * 32 * 48) + 2 * VOCABULARY * EMBED
    others = LAYERS * (2 * EMBED + 64) + EMBED
    assert plan.weights == matrices + 4 * rows + 4 * others
    assert plan.weights - plan.read == VOCABULARY * (EMBED + 4)
    assert "weights in int8, activations in float32, keys and values in float32" in generation_text(plan, None, 0)
