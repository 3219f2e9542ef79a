"""Multiverse-7B: the recipe of configs/multiverse_32b_v5p.py for Qwen2.5-7B-Instruct, on a small slice of v6e.

Prepare as for configs/multiverse_32b_v5p.py, with the model in downloads/Qwen2.5-7B-Instruct.

Command: mvjax train configs/multiverse_7b_v6e.py --output.directory gs://BUCKET/runs, on all hosts (by launch/tpu_pod)
Hardware: v6e:4x4, 16 chips.
HBM: 27.06 GiB of 31.25 on each chip (`mvjax plan configs/multiverse_7b_v6e.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v6e:4x4"
shape = "qwen2.5-7b"

config = recipe["config"].replace(
    name="multiverse_7b_v6e",
    model={"path": "downloads/Qwen2.5-7B-Instruct"},
    data={"rows": 16, "accumulation": 2},
    mesh={"fsdp": 8, "context": 2, "tensor": 1},
)
