"""The nearest change that makes a program fit."""

import pytest
from tiny_plans import made_up, tiny_config, tiny_step

from mvjax.planning import advice
from mvjax.planning.advice import changes, nearest, words

HBM = 2**20


@pytest.fixture
def compiled(monkeypatch):
    """Compiling is made up: `compiled.needs` says how many bytes a configuration takes, `compiled.seen` who asked."""
    seen = []

    def plan_step(step):
        seen.append(step.config)
        return made_up(step, plan_step.needs(step.config))

    monkeypatch.setattr(advice, "plan_step", plan_step)
    plan_step.seen = seen
    return plan_step


def test_the_first_that_fits_in_the_order_of_cost(compiled):
    compiled.needs = lambda config: HBM // 2 if config.data.accumulation >= 4 else 2 * HBM
    said = []
    found = nearest(made_up(tiny_step(HBM, model={"remat": "none"}), 2 * HBM), 4, said.append)
    assert found.words == ("--data.accumulation 4",)
    assert found.plan.memory.fits
    assert found.tried == 3
    assert [words(tiny_config(model={"remat": "none"}), config) for config in compiled.seen] == [
        ("--model.remat full",),
        ("--data.accumulation 2",),
        ("--data.accumulation 4",),
    ]
    assert said[0] == "does not fit; trying --model.remat full (at most 3 more)"


def test_changes_upon_each_other(compiled):
    compiled.needs = lambda config: (
        HBM // 2 if config.model.remat == "full" and config.data.accumulation == 8 else 2 * HBM
    )
    found = nearest(made_up(tiny_step(HBM), 2 * HBM), 20, lambda text: None)
    assert found.words == ("--model.remat full", "--data.accumulation 8")


def test_so_many_tries(compiled):
    compiled.needs = lambda config: 2 * HBM
    found = nearest(made_up(tiny_step(HBM), 2 * HBM), 2, lambda text: None)
    assert (found.words, found.plan, found.tried, len(compiled.seen)) == ((), None, 2, 2)


def test_what_is_too_large_already_is_passed_over(compiled, monkeypatch):
    """Weights and moments of all weights do not fit: no recomputation helps, only another kind of training."""
    compiled.needs = lambda config: 0
    monkeypatch.setattr(advice, "LORA_RANK", 2)
    step = tiny_step(290_000)
    assert not step.possible
    found = nearest(made_up(step, HBM), 4, lambda text: None)
    assert found.words == ("--lora.rank 2",)
    assert len(compiled.seen) == 1


def test_nothing_to_try(compiled):
    found = nearest(made_up(tiny_step(20_000, lora={"rank": 2}), HBM), 4, lambda text: None)
    assert (found.words, found.tried) == ((), 0)


def options(config, devices):
    return [words(config, changed) for changed in changes(config, devices)]


def test_the_list_on_one_chip():
    found = options(tiny_config(data={"rows": 4}), 1)
    alone = [("--model.remat full",), ("--data.accumulation 2",), ("--data.accumulation 4",)]
    assert found[:4] == [*alone, ("--lora.rank 16",)]
    assert ("--model.remat full", "--data.accumulation 4") in found
    assert len(set(found)) == len(found)


def test_the_list_on_many_chips():
    """Each keeps the number of chips, and divides the rows."""
    config = tiny_config(data={"rows": 8}, mesh={"fsdp": 4}, model={"remat": "full"})
    found = options(config, 8)
    assert ("--mesh.data 1", "--mesh.fsdp 8") in found
    spread = ("--data.accumulation 2", "--mesh.context 2", "--mesh.data 2", "--mesh.fsdp 2")
    assert spread in [tuple(sorted(words)) for words in found]
    for changed in changes(config, 8):
        rest = changed.mesh.fsdp * changed.mesh.context * changed.mesh.tensor
        assert 8 % rest == 0
        assert changed.data.rows % changed.data.accumulation == 0


def test_copies_over_slices_stay():
    config = tiny_config(data={"rows": 8}, mesh={"fsdp": 2, "slices": 2}, model={"remat": "full"})
    assert ("--mesh.data 2", "--mesh.fsdp 4") in [tuple(sorted(words)) for words in options(config, 8)]
