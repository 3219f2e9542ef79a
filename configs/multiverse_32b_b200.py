"""Multiverse-32B in packed rows on one host of eight B200, all weights trained.

configs/multiverse_32b_v5p.py with half the rows, two micro-batches of them a step. A step holds some fifty transcripts;
the paper's recipe, 16 a step on the same machine, is configs/paper_32b_b200.py.

Prepare as for configs/multiverse_32b_v5p.py.

Command: XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 mvjax train configs/multiverse_32b_b200.py
Hardware: one host of 8 x B200 (180 GB each).
HBM: 136.92 GiB of 164.09 on each chip (`mvjax plan configs/multiverse_32b_b200.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "b200:8"
shape = "qwen2.5-32b"

config = recipe["config"].replace(
    name="multiverse_32b_b200",
    data={"rows": 16, "accumulation": 2},
    mesh={"fsdp": 8, "tensor": 1},
)
