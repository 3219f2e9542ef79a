"""Multiverse-1.5B: the recipe of configs/multiverse_32b_v5p.py for Qwen2.5-1.5B-Instruct, on one host of v5e.

Prepare as for configs/multiverse_32b_v5p.py, with the model in downloads/Qwen2.5-1.5B-Instruct.

Command: mvjax train configs/multiverse_1_5b_v5e.py
Hardware: v5e:2x4, one host of 8 chips.
HBM: 12.48 GiB of 15.75 on each chip (`mvjax plan configs/multiverse_1_5b_v5e.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v5e:2x4"
shape = "qwen2.5-1.5b"

config = recipe["config"].replace(
    name="multiverse_1_5b_v5e",
    model={"path": "downloads/Qwen2.5-1.5B-Instruct"},
    data={"rows": 16, "accumulation": 4},
    mesh={"fsdp": 4, "context": 2, "tensor": 1},
)
