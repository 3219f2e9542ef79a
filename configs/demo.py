"""The demo model: SmolLM2-135M-Instruct learns to split its work, on GSM8K and the synthetic family.

Prepare, from the repository root (GSM8K's train.jsonl is openai/grade-school-math's):

    make model
    mvjax curate synthetic --output runs/data/synthetic.jsonl --count 400 --degree 1-8 --length 2-4 --nesting 0-0 --seed 1
    mvjax curate synthetic --output runs/data/nested.jsonl --count 40 --degree 2-3 --length 2-3 --nesting 1-1 --seed 2
    mvjax curate gsm8k train.jsonl --output runs/data/gsm8k_parallel.jsonl --limit 800 --no-sequential
    mvjax curate gsm8k train.jsonl --output runs/data/gsm8k_both.jsonl --limit 200

Command: mvjax train configs/demo.py
Hardware: two CPU cores, 8 GB of memory.
HBM: 3.85 GiB (`mvjax plan configs/demo.py`).
Run time: about 35 minutes (20 seconds a step).
Leaves the adapter (LoRA of rank 16 and the twelve tag rows) in runs/demo/adapter.safetensors.
Its autoregressive twin is configs/demo_autoregressive.py.
Result: the adapter in mvjax/assets; loss 0.01 to 0.73 in the last 12 steps. README has its accuracy.
"""  # noqa: E501

from mvjax.training.config import (
    AdapterConfig,
    BaseModelConfig,
    CheckpointConfig,
    DataConfig,
    OptimizerConfig,
    StepsConfig,
    TrainConfig,
)

topology = "cpu:1"
shape = "smollm2-135m"

config = TrainConfig(
    name="demo",
    model=BaseModelConfig(path="downloads/SmolLM2-135M-Instruct.Q4_1.gguf"),
    lora=AdapterConfig(rank=16, alpha=32.0),
    data=DataConfig(
        files=(
            "runs/data/synthetic.jsonl",
            "runs/data/nested.jsonl",
            "runs/data/gsm8k_parallel.jsonl",
            "runs/data/gsm8k_both.jsonl",
        ),
        row_length=1024,
        levels=4,
        rows=2,
        equal_records=True,
    ),
    optimizer=OptimizerConfig(
        learning_rate=1e-3,
        final_learning_rate=0.05,
        warmup=0.05,
        tag_multiplier=5.0,
    ),
    steps=StepsConfig(total=100),
    checkpoints=CheckpointConfig(every=10),
)
