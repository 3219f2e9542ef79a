"""Multiverse-1.5B: the recipe of configs/multiverse_32b_v5p.py for Qwen2.5-1.5B-Instruct, on one host of v5e.

Prepare as for configs/multiverse_32b_v5p.py, with the model in downloads/Qwen2.5-1.5B-Instruct.

Command: mvjax train configs/multiverse_1_5b_v5e.py
Hardware: v5e:2x4, one host of 8 chips.
HBM: 12.48 GiB of 15.75 on each chip (`mvjax plan configs/multiverse_1_5b_v5e.py`).
Result: not run.
"""

import dataclasses
import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v5e:2x4"
shape = "qwen2.5-1.5b"

config = dataclasses.replace(
    recipe["config"],
    name="multiverse_1_5b_v5e",
    model="downloads/Qwen2.5-1.5B-Instruct",
    rows=16,
    accumulation=4,
    fsdp=4,
    context_parallel=2,
    tensor_parallel=1,
)
