"""Multiverse-32B in packed rows on a whole pod of v6e: configs/multiverse_32b_v5p.py on another mesh.

Chips have a third of a v5p's memory, so every row's text lies over two more of them.

Prepare as for configs/multiverse_32b_v5p.py.

Command: mvjax train configs/multiverse_32b_v6e.py --output.directory gs://BUCKET/runs, on all hosts (by launch/tpu_pod)
Hardware: v6e:16x16, 256 chips.
HBM: 10.47 GiB of 31.25 on each chip (`mvjax plan configs/multiverse_32b_v6e.py`).
Result: not run.
"""

import runpy
from pathlib import Path

recipe = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_v5p.py")))

topology = "v6e:16x16"
shape = "qwen2.5-32b"

config = recipe["config"].replace(
    name="multiverse_32b_v6e",
    mesh={"fsdp": 32, "context": 2, "tensor": 4},
)
