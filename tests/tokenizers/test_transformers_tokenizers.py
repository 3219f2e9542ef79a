"""Live comparison with transformers, and the real SmolLM2 vocabulary (MVJAX_SMOLLM2: path of its GGUF file)."""

import json
import os

import gguf
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from mvjax.language.tags import TAGS
from mvjax.tokenizers import load_tokenizer

pytestmark = pytest.mark.slow

CHAT = [
    {"role": "system", "content": "Be  brief.\n"},
    {"role": "user", "content": "Janet’s ducks lay 16 eggs per day: 3 + 4 = ?\n\n\tdef f(x):\n    return x"},
    {"role": "assistant", "content": "Seven."},
    {"role": "user", "content": " and 日本語? "},
]


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def lines(corpus):
    return [corpus, *corpus.splitlines(keepends=True)]


def library_ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def test_gpt2(transformers, tmp_path, write_vocabulary, vocabulary, corpus):
    tokens, _, merges = vocabulary
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(tmp_path)
    mine = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", pre="gpt-2"))
    for text in lines(corpus):
        assert mine.encode(text) == library_ids(theirs, text)


def test_qwen2(transformers, tmp_path, write_vocabulary, vocabulary, corpus):
    tokens, _, merges = vocabulary
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    theirs = transformers.Qwen2TokenizerFast.from_pretrained(tmp_path)
    mine = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", pre="qwen2"))
    for text in lines(corpus):
        assert mine.encode(text) == library_ids(theirs, text)


@pytest.mark.parametrize("kind", ["smollm", "qwen", "bpe_pieces", "unigram_pieces"])
def test_saved_directories_load(transformers, request, kind, tmp_path, corpus):
    mine = request.getfixturevalue(kind)
    mine.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == mine.vocab_size
    assert theirs.convert_tokens_to_ids(list(TAGS)) == list(mine.tag_ids)
    assert theirs("".join(TAGS), add_special_tokens=False)["input_ids"] == list(mine.tag_ids)
    assert theirs.eos_token_id == mine.eos_ids[0]
    assert theirs.chat_template == mine.settings.chat_template
    for text in corpus.splitlines(keepends=True):
        if "<" not in text:
            ids = mine.encode(text)
            assert theirs(text, add_special_tokens=False)["input_ids"] == ids
            assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text or kind == "qwen"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("class_name", ["LlamaTokenizer", "PreTrainedTokenizerFast"])
def test_ids_are_the_same_before_and_after_saving(transformers, bpe_pieces, tmp_path, corpus, class_name, legacy):
    """A tokenizer of a class of its own, whose ids depend on further settings."""
    (tmp_path / "before").mkdir()
    definition = bpe_pieces.backend.definition()
    definition["normalizer"]["normalizers"].insert(0, {"type": "Prepend", "prepend": "\u2581"})
    config = {"tokenizer_class": class_name, "legacy": legacy, "add_bos_token": True, "bos_token": "<s>"}
    config |= {"eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "before" / "tokenizer.json").write_text(json.dumps(definition))
    (tmp_path / "before" / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(tmp_path / "before")
    tokenizer.save(tmp_path / "after")
    before, after = (transformers.AutoTokenizer.from_pretrained(tmp_path / name) for name in ("before", "after"))
    assert type(after) is type(before)
    for text in [*corpus.splitlines(keepends=True), " a  b", "<s> the", "the</s> path"]:
        assert after(text)["input_ids"] == before(text)["input_ids"]


def test_chats(transformers, smollm, tmp_path):
    smollm.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (True, False):
        ids = theirs.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=prompt, return_dict=False)
        assert smollm.render_chat(CHAT, add_generation_prompt=prompt) == ids


@pytest.fixture(scope="module")
def real():
    path = os.environ.get("MVJAX_SMOLLM2")
    if not path:
        pytest.skip("MVJAX_SMOLLM2 does not name SmolLM2-135M-Instruct's GGUF file")
    return path


@pytest.fixture(scope="module")
def published(transformers, real, tmp_path_factory):
    """The real vocabulary in the definition of SmolLM2's published tokenizer.json, built with the library's objects."""
    fields = gguf.GGUFReader(real).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = tokenizers.Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, level])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    tokenizer.add_special_tokens(tokens[:17])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=fields["tokenizer.chat_template"].contents(),
        clean_up_tokenization_spaces=False,
    )


class TestSmolLM2:
    def test_corpus(self, real, published, corpus):
        mine = load_tokenizer(real)
        for text in lines(corpus):
            assert mine.encode(text) == library_ids(published, text)
            assert mine.decode(mine.encode(text)) == text

    def test_tags(self, real):
        mine = load_tokenizer(real).with_control_tags()
        assert mine.tag_ids == tuple(range(49152, 49164))
        assert mine.eos_ids[0] == 2

    def test_chats(self, real, published):
        mine = load_tokenizer(real).with_control_tags()
        for chat in (CHAT, CHAT[1:]):
            ids = published.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
            assert mine.render_chat(chat) == ids
