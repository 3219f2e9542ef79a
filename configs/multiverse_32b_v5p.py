"""Multiverse-32B in packed rows: Qwen2.5-32B-Instruct, all weights trained, on a pod slice of v5p.

Optimizer, curriculum and row length are the paper's (arXiv 2506.09991, section 6); its batch is not. Rows are packed
with whole transcripts instead of one each, so a step of 32 rows holds about a million tokens, some hundred transcripts,
where the paper's held 16, and eight passes are about 78 steps instead of 500. The paper's recipe to the number is
configs/paper_32b_b200.py. The weights that Adam works on are float32.

Prepare: the model as a Hugging Face directory in downloads/Qwen2.5-32B-Instruct; the transcripts as records, one JSON
object a line as `mvjax curate` writes them, in data/multiverse_1k.jsonl. All hosts must see both, and
the output directory.

Command: mvjax train configs/multiverse_32b_v5p.py --output.directory gs://BUCKET/runs, on all hosts (by launch/tpu_pod)
Hardware: v5p:4x4x8, 128 chips.
HBM: 19.43 GiB of 95.74 on each chip (`mvjax plan configs/multiverse_32b_v5p.py`).
Result: not run.
"""

from mvjax.training.config import (
    BaseModelConfig,
    CheckpointConfig,
    DataConfig,
    LossConfig,
    MeshConfig,
    OptimizerConfig,
    StepsConfig,
    TrainConfig,
)

topology = "v5p:4x4x8"
shape = "qwen2.5-32b"

config = TrainConfig(
    name="multiverse_32b_v5p",
    model=BaseModelConfig(
        path="downloads/Qwen2.5-32B-Instruct",
        dtype="bfloat16",
        master_dtype="float32",
        remat="full",
    ),
    data=DataConfig(
        files=("data/multiverse_1k.jsonl",),
        row_length=32768,
        levels=4,
        rows=32,
        curriculum=(0.0, 0.0, 0.1, 0.5, 0.5, 0.9, 1.0, 1.0),
    ),
    loss=LossConfig(chunk=1024),
    optimizer=OptimizerConfig(
        learning_rate=1e-5,
        final_learning_rate=0.0,
        warmup=0.05,
        weight_decay=1e-4,
        beta1=0.9,
        beta2=0.95,
        clip=1.0,
    ),
    mesh=MeshConfig(fsdp=32, tensor=4),
    steps=StepsConfig(passes=8),
    checkpoints=CheckpointConfig(every=20),
)
