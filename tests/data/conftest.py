"""A small tokenizer with a chat template, records to encode with it, and a store of them."""

import io
import json

import pytest
import tokenizers
from rich.console import Console
from tokenizers import decoders, models, pre_tokenizers, trainers

from mvjax.curator.sources.synthetic import SyntheticConfig, generate
from mvjax.data.build import build_store
from mvjax.data.records import write_records
from mvjax.data.sources import open_data
from mvjax.data.store import open_store, store_path
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


@pytest.fixture(scope="session")
def encoded(tmp_path_factory, tokenizer):
    """`encoded(records)`: a store of the records."""

    quiet = Console(file=io.StringIO())

    def encoded(*files):
        directory = tmp_path_factory.mktemp("records")
        paths = [directory / f"file{number}.jsonl" for number in range(len(files))]
        for path, records in zip(paths, files, strict=True):
            write_records(path, records)
        files = open_data(paths)
        path = store_path(files, tokenizer, directory / "tokens")
        build_store(path, files, tokenizer, console=quiet)
        return open_store(path)

    return encoded


@pytest.fixture(scope="session")
def store(encoded, records):
    """The store of the forty records."""
    return encoded(records)
