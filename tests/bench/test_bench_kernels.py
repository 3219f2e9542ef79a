"""The comparison of kernels: its texts are what they say, its counts are the oracle's, and it runs."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from oracle import interval_mask, tile_any

from mvjax.bench import config as settings
from mvjax.bench import kernels, scenes
from mvjax.bench.report import Report
from mvjax.errors import UserError


@pytest.mark.parametrize("degree", [1.2, 2, 4, 8])
def test_a_parallel_text_has_the_degree_that_it_is_named_for(degree):
    length = 4096
    start_ET, end_ET = scenes.parallel(degree, length, 3)
    visible_TT = interval_mask(start_ET[None], end_ET[None], length)[0]
    # A token's place on its path: how many it sees, siblings being hidden.
    assert length / visible_TT.sum(1).max() == pytest.approx(degree, rel=0.01)
    assert visible_TT[-1].sum() == visible_TT.sum(1).max()


def test_packed_documents_do_not_see_each_other():
    start_ET, end_ET = scenes.packed(8192, 2)
    visible_TT = interval_mask(start_ET[None], end_ET[None], 8192)[0]
    (first_T,) = np.nonzero(visible_TT.sum(1) == 1)
    assert 3 <= len(first_T) <= 16
    assert visible_TT.sum() == sum(n * (n + 1) // 2 for n in np.diff([*first_T, 8192]))


@pytest.mark.parametrize("scene", scenes.SCENES)
def test_counted_tiles_are_the_oracle_s(scene):
    hide = scenes.SCENES[scene](1000, 3)
    visible_BTS = interval_mask(*(x[None] for x in hide), 1000)
    pairs_QC = kernels.hold_pairs(*hide, 32)
    np.testing.assert_array_equal(pairs_QC, tile_any(visible_BTS, 32, 32)[0])
    assert kernels.joined(pairs_QC, 2, 4) == tile_any(visible_BTS, 64, 128).sum()


def test_a_degree_that_cannot_be_is_refused():
    for degree, levels in ((1, 2), (16, 2), (4, 1)):
        with pytest.raises(ValueError, match="give a degree between 1 and 16"):
            scenes.parallel(degree, 100, levels)


def test_the_compiler_s_complaint_is_read():
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (113.50G) is"
    assert kernels.too_much(message) == round(113.5 * 2**30)
    with pytest.raises(RuntimeError, match="not for its memory: no such layout"):
        kernels.too_much("no such layout")


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_it_says_what_to_install():
    with pytest.raises(UserError, match=r"takes libtpu, which is not installed: pip install 'mvjax\[aot\]'"):
        kernels.measure(settings.KernelsBench(), Report("kernels", {}), print)


@pytest.mark.aot
def test_it_runs(tmp_path):
    arguments = ["bench", "kernels", "--lengths", "512", "1024", "--output", str(tmp_path)]
    program = [sys.executable, "-c", "from mvjax.cli.main import run; run()", *arguments]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | {"COLUMNS": "200"}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "# parallel 8" in done.stdout
    assert (tmp_path / "kernels.json").is_file()
    unknown = [*program, "--chip", "v99:1x1"]
    done = subprocess.run(unknown, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "libtpu knows no slice 'v99:1x1'" in done.stderr
