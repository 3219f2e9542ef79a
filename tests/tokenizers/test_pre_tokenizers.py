"""Where pre-tokenizers cut text, by the names that GGUF files give them."""

import json
from itertools import pairwise

import pytest
import regex
import tokenizers

from mvjax.errors import Caution
from mvjax.tokenizers import load_tokenizer
from mvjax.tokenizers.pre_tokenizers import PRE_TOKENIZERS

SPLITS = {
    # What each published pre-tokenizer makes of one text.
    "gpt-2": "I|'ll| pay| $|1234|.|50| DON|'|T|\n\n | x|_|y|!!|\n",
    "qwen2": "I|'ll| pay| $|1|2|3|4|.|5|0| DON|'T|\n\n| | x|_y|!!\n",
    "llama-bpe": "I|'ll| pay| $|123|4|.|50| DON|'T|\n\n| | x|_y|!!\n",
    "dbrx": "I|'ll| pay| $|123|4|.|50| DON|'T|\n\n| | x|_y|!!\n",
    "tekken": "I|'ll| pay| $|1|2|3|4|.|5|0| DON|'T|\n\n| | x|_y|!!\n",
    "gpt-4o": "I'll| pay| $|123|4|.|50| DON'T|\n\n| | x|_y|!!\n",
    "deepseek-coder": "I|'|ll| pay| $|1|2|3|4|.|5|0| DON|'|T|\n|\n| | x|_|y|!!|\n",
    "smollm": "I|'ll| pay| $|1|2|3|4|.|5|0| DON|'|T|\n\n | x|_|y|!!|\n",
    "falcon": "I|'|ll| pay| |$|123|4|.|50| DON|'|T|\n\n | x|_|y|!!|\n",
    "deepseek-llm": "I|'|ll| pay| $|1|2|3|4|.|5|0| DON|'|T|\n|\n| | x|_|y|!!|\n",
    "bloom": "I'll| pay| $1234|.|50| DON'T|\n\n | x_y|!!\n",
    "viking": "I'll| pay| $|1|2|3|4|.|5|0| DON'T|\n\n | x_y|!!\n",
    "chameleon": "I|'|ll| pay| |$|1|2|3|4|.|5|0| DON|'|T|\n|\n|  |x|_|y|!|!|\n",
    "tiny_aya": "I'll| pay| $|1|234|.|50| DON'T|\n\n| | x|_y|!!\n",
}
FOREIGN = {
    # The same of marks, scripts and spaces.
    "deepseek-llm": " |中文とカナ| |한국어| ab|กำ|   ",
    "kimi-k2": " |中文|とカナ| 한국어| abกำ|   ",
    "youtu": " |中文とカナ| |한국어| abกำ|   ",
    "qwen35": " 中文とカナ| 한국어| abกำ|   ",
    "exaone-moe": " 中文とカナ 한국어 abกำ|   ",
    "bailingmoe": " 中文とカナ| 한국어| abกำ|   ",
    "jais-2": " 中文とカナ| 한국어| abกำ|  | ",
}


def cuts(name, text):
    """What the library makes of a text, by a pre-tokenizer."""
    definition = {"version": "1.0", "added_tokens": [], "pre_tokenizer": PRE_TOKENIZERS[name].words}
    definition["model"] = {"type": "BPE", "vocab": {}, "merges": []}
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
    return [text[a:b] for _, (a, b) in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


def isolated(pattern, text):
    """What a pattern matches, and what lies between."""
    ends = sorted({0, len(text), *(end for match in pattern.finditer(text) for end in match.span())})
    return [text[a:b] for a, b in pairwise(ends)]


class TestPreTokenizers:
    @pytest.mark.parametrize("name", SPLITS)
    def test_where_they_cut(self, name):
        assert cuts(name, "I'll pay $1234.50 DON'T\n\n  x_y!!\n") == SPLITS[name].split("|")

    @pytest.mark.parametrize("name", FOREIGN)
    def test_where_they_cut_other_scripts(self, name):
        assert cuts(name, FOREIGN[name].replace("|", "")) == FOREIGN[name].split("|")

    def test_two_libraries_of_regular_expressions_cut_alike(self, corpus):
        """Possessive quantifiers and intersections of classes do not mean the same everywhere."""
        text = corpus[:2000] + " 中文とカナ 한국어 fooBar กำ é 1234567,  «x»…\r\n   "
        for name, kind in PRE_TOKENIZERS.items():
            steps = kind.words.get("pretokenizers", [kind.words])
            if all(step["type"] == "Split" or not step.get("use_regex", True) for step in steps):
                parts = [text]
                for step in steps[:-1]:
                    pattern = regex.compile(step["pattern"]["Regex"], regex.V1)
                    parts = [piece for part in parts for piece in isolated(pattern, part)]
                assert cuts(name, text) == parts, name

    @pytest.mark.parametrize(
        ("architecture", "name"),
        [("llama", "llama-bpe"), ("qwen2", "qwen2"), ("qwen3", "qwen2"), ("olmo2", "dbrx"), ("phi2", "gpt-2")],
    )
    def test_without_a_name_it_is_that_of_the_architecture(self, tmp_path, write_vocabulary, architecture, name):
        text = "I'll pay $1234.50 DON'T\n\n  x_y!!\n"
        named = load_tokenizer(write_vocabulary(tmp_path / "a.gguf", pre=name))
        for other in (None, "default"):
            path = write_vocabulary(tmp_path / "b.gguf", pre=other, architecture=architecture)
            with pytest.warns(Caution, match=f"no tokenizer.ggml.pre.*read as {name}, as most {architecture} models"):
                assert load_tokenizer(path).encode(text) == named.encode(text)

    @pytest.mark.parametrize(
        ("name", "as_"),
        [("deepseek-r1-qwen", "qwen2"), ("megrez", "qwen2"), ("llama-v3", "llama-bpe"), ("olmo", "gpt-2")],
    )
    def test_names_that_mean_the_same(self, name, as_):
        assert PRE_TOKENIZERS[name] == PRE_TOKENIZERS[as_]

    @pytest.mark.parametrize("name", {id(kind): name for name, kind in PRE_TOKENIZERS.items()}.values())
    def test_each_kind_loads_and_keeps_text(self, tmp_path, write_vocabulary, corpus, name):
        tokenizer = load_tokenizer(write_vocabulary(tmp_path / "a.gguf", pre=name))
        text = corpus[:400] + " 12345 fooBar's \u00e9\u4e2d\u6587 \n\n"
        assert tokenizer.decode(tokenizer.encode(text)) == text

    def test_whole_words_are_not_merged_in_llama(self, tmp_path, write_vocabulary, vocabulary):
        tokens, types, merges = vocabulary
        changes = {"tokens": [*tokens, "zqxj"], "types": [*types, 1], "merges": merges}
        llama = load_tokenizer(write_vocabulary(tmp_path / "a.gguf", pre="llama-bpe", **changes))
        assert llama.encode("zqxj") == [len(tokens)]
        smollm = load_tokenizer(write_vocabulary(tmp_path / "b.gguf", **changes))
        assert len(smollm.encode("zqxj")) > 1

    def test_whole_words_that_are_control_tokens(self, tmp_path, write_vocabulary, vocabulary):
        tokens, types, merges = vocabulary
        changes = {"tokens": [*tokens, "stop"], "types": [*types, 3], "merges": merges}
        llama = load_tokenizer(write_vocabulary(tmp_path / "a.gguf", pre="llama-bpe", **changes))
        assert len(tokens) not in llama.encode("stop")
        assert llama.decode(llama.encode("stop")) == "stop"

    def test_qwen_normalises(self, qwen):
        assert qwen.encode("e\u0301") == qwen.encode("\u00e9")
