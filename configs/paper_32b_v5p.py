"""The paper's recipe (arXiv 2506.09991, section 6, and its released code) on a pod slice: a cube of v5p.

The steps are those of configs/paper_32b_b200.py, number by number: 16 transcripts, one a row and not cut, 500 steps.
What differs from the paper, and why, is said there.

Prepare as for configs/multiverse_32b_v5p.py.

Command: mvjax train configs/paper_32b_v5p.py --output.directory gs://BUCKET/runs, on all hosts (by launch/tpu_pod)
Hardware: v5p:4x4x4, 64 chips.
HBM: 24.69 GiB of 95.74 on each chip (`mvjax plan configs/paper_32b_v5p.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("paper_32b_b200.py")))

topology = "v5p:4x4x4"
shape = recipe["shape"]

config = recipe["config"].replace(
    name="paper_32b_v5p",
    mesh={"fsdp": 16, "tensor": 4},
    data={"accumulation": 1},
)
