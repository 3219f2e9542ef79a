"""The presets of the paper's recipe: every number with its source.

[P] arXiv 2506.09991, section 6 and appendix; [C] the code that was released with it.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest

from mvjax.data.curriculum import Curriculum
from mvjax.data.encode import SUFFIXES
from mvjax.training.optimizer import make_schedule

CONFIGS = Path(__file__).parents[2] / "configs"
RECORDS = 1000
"""Transcripts of Multiverse-1K [P]."""


@pytest.fixture(params=["paper_32b_b200", "paper_autoregressive_32b_b200", "paper_32b_v5p"])
def preset(request):
    return runpy.run_path(str(CONFIGS / f"{request.param}.py"))


def test_every_number_of_the_recipe(preset):
    config = preset["config"]
    assert preset["shape"] == "qwen2.5-32b"  # [P] base: Qwen2.5-32B-Instruct
    assert config.lora.rank == 0  # [P] all weights are trained
    assert config.model.dtype == "bfloat16"  # [P]
    assert config.data.transcripts_per_step == 16  # [P] global batch; [C] 8 devices x 1 x accumulation 2
    assert config.data.rows == 16  # [C] one transcript a row, unpacked
    assert config.data.row_length == 32_768  # [P] longest text
    assert config.data.curriculum == (0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0)  # [P] share of parallel data by pass
    assert config.steps.passes == 8  # [P]
    assert config.seed == 42  # [C] the order of the data
    optimizer = config.optimizer
    assert optimizer.learning_rate == 1e-5  # [P]
    assert optimizer.final_learning_rate == 0.0  # [P] cosine to 0
    assert optimizer.warmup == 0.05  # [P]
    assert optimizer.weight_decay == 1e-4  # [P]
    assert (optimizer.beta1, optimizer.beta2) == (0.9, 0.95)  # [P]
    assert optimizer.clip == 1.0  # [C] the trainer's default
    assert optimizer.tag_multiplier == 1.0  # [C] one learning rate for all


def test_five_hundred_steps(preset):
    """[C]: about 8,000 rows in all, 16 a step."""
    config = preset["config"]
    assert config.steps.total == 0
    steps = -(-config.steps.passes * RECORDS // config.data.transcripts_per_step)
    assert steps == 500
    rates = np.array([float(make_schedule(config.optimizer, steps)(step)) for step in range(steps + 1)])
    assert rates.argmax() == 25
    assert rates[25] == pytest.approx(1e-5)
    assert rates[-1] == 0


def test_passes_four_and_five_are_complements():
    """[C]: a mix of first halves, then the complementary mix."""
    config = runpy.run_path(str(CONFIGS / "paper_32b_b200.py"))["config"]
    curriculum = Curriculum(RECORDS, config.data.curriculum, config.seed)
    fourth, fifth = (dict(zip(*map(np.ndarray.tolist, curriculum.draws(epoch)))) for epoch in (3, 4))
    assert fourth == {record: not parallel for record, parallel in fifth.items()}
    assert sum(fourth.values()) == RECORDS // 2


def test_the_prompts_end_as_the_paper_s():
    """[P], appendix."""
    assert SUFFIXES["multiverse"] == " Think step by step and in parallel before answering."
    assert SUFFIXES["autoregressive"] == " Think step by step before answering."


def test_the_twins_differ_in_the_form_only():
    one, other = (
        runpy.run_path(str(CONFIGS / f"paper{name}_32b_b200.py"))["config"] for name in ("", "_autoregressive")
    )
    assert other == one.replace(name=other.name, data={"form": "autoregressive"})
