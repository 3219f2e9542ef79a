"""The autoregressive twin of configs/multiverse_32b_v5p.py: the same problems, steps and seeds, each transcript in
sequential form. That of the paper's recipe is configs/paper_autoregressive_32b_b200.py.

Rows of either twin have room for the longer form of each record, so a step holds the same records: give
`--data.equal-records` to configs/multiverse_32b_v5p.py too where the two are to be compared. Prepare as for that one.

Command: mvjax train configs/autoregressive_32b_v5p.py --output.directory gs://BUCKET/runs, on every host
Hardware: v5p:4x4x8, 128 chips.
HBM: 19.43 GiB of 95.74 on each chip (`mvjax plan configs/autoregressive_32b_v5p.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v5p:4x4x8"
shape = "qwen2.5-32b"

config = recipe["config"].replace(
    name="autoregressive_32b_v5p",
    data={"form": "autoregressive", "equal_records": True},
)
