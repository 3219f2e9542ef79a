"""Multiverse-7B: the recipe of configs/multiverse_32b_v5p.py for Qwen2.5-7B-Instruct, on a small slice of v6e.

Prepare as for configs/multiverse_32b_v5p.py, with the model in downloads/Qwen2.5-7B-Instruct.

Command: mvjax train configs/multiverse_7b_v6e.py --output gs://BUCKET/runs, on every host (launch/tpu_pod does that)
Hardware: v6e:4x4, 16 chips.
HBM: 27.06 GiB of 31.25 on each chip (`mvjax plan configs/multiverse_7b_v6e.py`).
Result: not run.
"""

import dataclasses
import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v6e:4x4"
shape = "qwen2.5-7b"

config = dataclasses.replace(
    recipe["config"],
    name="multiverse_7b_v6e",
    model="downloads/Qwen2.5-7B-Instruct",
    rows=16,
    accumulation=2,
    fsdp=8,
    context_parallel=2,
    tensor_parallel=1,
)
