"""The demo model: SmolLM2-135M-Instruct learns to split its work, on GSM8K and the synthetic family.

Prepare (from the repository root; GSM8K's training file is openai/grade-school-math's train.jsonl):

    make model
    mvjax curate gsm8k gsm8k_train.jsonl --output runs/data/gsm8k.jsonl --tokenizer downloads/SmolLM2-135M-Instruct.Q4_1.gguf
    mvjax curate synthetic --output runs/data/synthetic.jsonl --count 3000

Command: mvjax train configs/demo.py
Hardware: two CPU cores, 8 GB of memory.
Leaves the adapter (LoRA and the twelve tag rows) in runs/demo/adapter.safetensors.
"""  # noqa: E501

from mvjax.training.config import TrainConfig

config = TrainConfig(
    name="demo",
    model="downloads/SmolLM2-135M-Instruct.Q4_1.gguf",
    data=("runs/data/synthetic.jsonl", "runs/data/gsm8k.jsonl"),
    curriculum=(1.0,),
    row_length=1024,
    levels=4,
    rows=4,
    accumulation=2,
    passes=1,
    learning_rate=1e-3,
    final_learning_rate=0.05,
    warmup=0.05,
    tag_multiplier=10.0,
    weight_decay=1e-4,
    lora_rank=16,
    lora_alpha=32.0,
    steps_per_save=25,
)
