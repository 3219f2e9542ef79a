"""The paper's recipe (arXiv 2506.09991, section 6, and its released code) on the paper's machine: one host of B200.

Every number of it stands in tests/planning/test_paper_recipe.py with its source: Qwen2.5-32B-Instruct, all weights
trained; 1,000 transcripts in eight passes, of which a share of 0, 0, 0.1, 0.5, 0.5, 0.9, 1 and 1 is parallel, passes 4
and 5 complements of each other; 16 transcripts a step, one a row and not cut, so 500 steps; AdamW with a learning rate
of 1e-5, 5 % warm-up and a cosine to zero, weight decay 1e-4, betas 0.9 and 0.95, clipping at 1; seed 42.

What differs, and why: the weights that Adam works on are float32 (at this learning rate few weights in bfloat16 ever
change). Every pass has an order of its own, which is a function of seed and position, where the released code draws one
order for the sequential passes. The loss is the mean over all targets of a step. Positions and hidden intervals are
those of the language: a path never sees the newline after a sibling, and no two tokens in sight of each other share a
position. The text is that of the records, which the Curator writes as the released code does: <Think> around the
reasoning in both forms, an empty line, and "Answer: " before an answer that has none.

Rows that hold one transcript of 10,000 tokens are two thirds padding. The same steps run in fewer rows with
`--data.rows 8 --data.accumulation 1`, if no 16 transcripts need more (the start says so). Batches that are packed full,
of about three times as many transcripts: configs/multiverse_32b_b200.py.

Prepare as for configs/multiverse_32b_v5p.py.

Command: XLA_PYTHON_CLIENT_MEM_FRACTION=0.92 mvjax train configs/paper_32b_b200.py
Hardware: one host of 8 x B200 (180 GB each).
HBM: 136.92 GiB of 164.09 on each chip (`mvjax plan configs/paper_32b_b200.py`): the program is that of
configs/multiverse_32b_b200.py.
Result: not run.
"""

import runpy
from pathlib import Path

packed = runpy.run_path(str(Path(__file__).with_name("multiverse_32b_b200.py")))

topology = packed["topology"]
shape = packed["shape"]

config = packed["config"].replace(
    name="paper_32b_b200",
    seed=42,
    data={"rows": 16, "transcripts_per_step": 16},
)
