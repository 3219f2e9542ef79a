"""The paper's Autoregressive-32B: configs/paper_32b_b200.py with each transcript in sequential form.

A step holds the same 16 problems as that of the parallel twin.

Prepare as for configs/multiverse_32b_v5p.py.

Command: XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 mvjax train configs/paper_autoregressive_32b_b200.py
Hardware: one host of 8 x B200 (180 GB each).
HBM: 136.92 GiB of 164.09 on each chip (`mvjax plan configs/paper_autoregressive_32b_b200.py`), as for the twin.
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("paper_32b_b200.py")))

topology = recipe["topology"]
shape = recipe["shape"]

config = recipe["config"].replace(
    name="paper_autoregressive_32b_b200",
    data={"form": "autoregressive"},
)
