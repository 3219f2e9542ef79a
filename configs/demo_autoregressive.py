"""The demo model's autoregressive twin: the same problems, steps and seeds, each solution in sequential form.

It is what the demo model is compared with: rows are packed by the longer form of each record, so a step of either
holds the same records. Prepare as for configs/demo.py.

Command: mvjax train configs/demo_autoregressive.py
Hardware: two CPU cores, 8 GB of memory; as long as the demo model takes.
HBM: that of the demo model.
Leaves the adapter in runs/demo_autoregressive/adapter.safetensors.
Result: README has its accuracy, beside that of the demo model.
"""

import runpy
from pathlib import Path

demo = runpy.run_path(str(Path(__file__).with_name("demo.py")))
topology, shape = demo["topology"], demo["shape"]

config = demo["config"].replace(
    name="demo_autoregressive",
    data={"form": "autoregressive"},
)
