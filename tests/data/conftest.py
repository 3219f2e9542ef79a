"""A small tokenizer with a chat template, and records to encode with it."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mvjax.curator.synthetic import SyntheticConfig, generate
from mvjax.tokenizers import load_tokenizer

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def records():
    """Forty flat and nested synthetic items."""
    return list(generate(SyntheticConfig(degree=(1, 4), length=(1, 3), nesting=(0, 1)), 40))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory, records):
    """A byte-level BPE trained on the records, control tags added."""
    directory = tmp_path_factory.mktemp("tokenizer")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([record.autoregressive for record in records], trainer)
    bpe.save(str(directory / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "chat_template": TEMPLATE,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(directory).with_control_tags()
