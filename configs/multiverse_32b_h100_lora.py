"""Multiverse-32B as adapters: LoRA and the tag rows on one host of eight H100, the weights frozen in bfloat16.

The curriculum of the paper, in packed rows; an adapter takes a higher learning rate than the weights would, and the
rows of the control tags a much higher one.

Prepare as for configs/multiverse_32b_v5p.py.

Command: XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 mvjax train configs/multiverse_32b_h100_lora.py
Hardware: one host of 8 x H100 (80 GB each).
HBM: 48.01 GiB of 72.78 on each chip (`mvjax plan configs/multiverse_32b_h100_lora.py`).
Leaves the adapter in runs/multiverse_32b_h100_lora/adapter.safetensors.
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "h100:8"
shape = "qwen2.5-32b"

config = recipe["config"].replace(
    name="multiverse_32b_h100_lora",
    lora={"rank": 32, "alpha": 64.0},
    optimizer={"learning_rate": 1e-4, "tag_multiplier": 10.0},
    # The machine.
    data={"rows": 16, "accumulation": 2},
    mesh={"fsdp": 8, "tensor": 1},
)
