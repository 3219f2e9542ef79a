"""Multiverse-7B as adapters: LoRA and the tag rows of Qwen2.5-7B-Instruct on one host of v5e, the weights in bfloat16.

Prepare as for configs/multiverse_32b_v5p.py, with the model in downloads/Qwen2.5-7B-Instruct.

Command: mvjax train configs/multiverse_7b_v5e_lora.py
Hardware: v5e:2x4, one host of 8 chips.
HBM: 8.30 GiB of 15.75 on each chip (`mvjax plan configs/multiverse_7b_v5e_lora.py`).
Leaves the adapter in runs/multiverse_7b_v5e_lora/adapter.safetensors.
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v5e:2x4"
shape = "qwen2.5-7b"

config = recipe["config"].replace(
    name="multiverse_7b_v5e_lora",
    model={"path": "downloads/Qwen2.5-7B-Instruct"},
    # Adapters, as in configs/multiverse_32b_h100_lora.py.
    lora={"rank": 32, "alpha": 64.0},
    optimizer={"learning_rate": 1e-4, "tag_multiplier": 10.0},
    # The machine.
    data={"rows": 16, "accumulation": 8},
    mesh={"fsdp": 2, "context": 4, "tensor": 1},
)
