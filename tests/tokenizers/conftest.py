"""Small vocabularies, trained once per run, in every file form."""

from pathlib import Path

import gguf
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from mvjax.tokenizers import load_tokenizer
from mvjax.tokenizers.sentencepiece_model import train_sentencepiece

CORPUS = (Path(__file__).parents[1] / "fixtures" / "tokenizers" / "corpus.txt").read_bytes().decode()
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def smollm_reference() -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer as its published tokenizer.json defines it, on a small vocabulary trained here."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Two newlines are one token, as in the published vocabularies: what follows a tag must not take its separator in.
    tokenizer.train_from_iterator([*CORPUS.splitlines(keepends=True), *["so\n\n"] * 50], trainer)
    return tokenizer


def write_gguf(path: Path, tokens, types, merges, *, pre="smollm", model="gpt2", template=CHATML, scores=None,
               architecture="llama", change=None, **ids) -> Path:  # fmt: skip
    """A GGUF file that holds a vocabulary and nothing else."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    if change is not None:
        change(writer)
    for name, index in ids.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", index)
    if template is not None:
        writer.add_chat_template(template)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def vocabulary_of(tokenizer: tokenizers.Tokenizer) -> tuple[list[str], list[str]]:
    """Tokens in the order of ids, merges as GGUF writes them."""
    import json

    definition = json.loads(tokenizer.to_str())
    vocabulary = definition["model"]["vocab"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in definition["model"]["merges"]]
    return sorted(vocabulary, key=vocabulary.get), merges


@pytest.fixture(scope="session")
def corpus():
    return CORPUS


@pytest.fixture(scope="session")
def reference():
    return smollm_reference()


@pytest.fixture(scope="session")
def vocabulary(reference):
    tokens, merges = vocabulary_of(reference)
    return tokens, [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)), merges


@pytest.fixture(scope="session")
def write_vocabulary(vocabulary):
    """Writes the small vocabulary as a GGUF file; keywords change it."""

    def write(path, **changes):
        tokens, types, merges = vocabulary
        given = {"tokens": tokens, "types": types, "merges": merges, "bos": 1, "eos": 2, "padding": 2} | changes
        return write_gguf(path, **given)

    return write


@pytest.fixture(scope="session")
def smollm_gguf(tmp_path_factory, write_vocabulary):
    return write_vocabulary(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def base(smollm_gguf):
    """The small tokenizer without control tags."""
    return load_tokenizer(smollm_gguf)


@pytest.fixture(scope="session")
def smollm(base):
    return base.with_control_tags()


@pytest.fixture(scope="session")
def qwen(tmp_path_factory, write_vocabulary, vocabulary):
    """Qwen2.5's layout in small: control tokens after the text vocabulary, then tokens that only pad the matrix."""
    tokens, _, merges = vocabulary
    text = tokens[len(SPECIAL) :]
    added = [*SPECIAL, "<tool_call>", "</tool_call>"]
    padding = [f"[PAD{len(text) + len(added) + i}]" for i in range(20)]
    path = write_vocabulary(
        tmp_path_factory.mktemp("qwen") / "qwen.gguf",
        tokens=[*text, *added, *padding],
        types=[1] * len(text) + [3] * len(SPECIAL) + [4, 4] + [5] * len(padding),
        merges=merges,
        pre="qwen2",
        bos=len(text),
        eos=len(text) + 2,
        padding=len(text),
        template=CHATML + "{# <tool_call> #}",
    )
    return load_tokenizer(path).with_control_tags()


def train(tmp_path_factory, kind):
    path = tmp_path_factory.mktemp(kind) / "tokenizer.model"
    return load_tokenizer(train_sentencepiece([CORPUS], path, vocab_size=800, model_type=kind))


@pytest.fixture(scope="session")
def bpe_pieces(tmp_path_factory):
    """A SentencePiece BPE model trained here."""
    return train(tmp_path_factory, "bpe")


@pytest.fixture(scope="session")
def unigram_pieces(tmp_path_factory):
    """A SentencePiece unigram model trained here."""
    return train(tmp_path_factory, "unigram")
