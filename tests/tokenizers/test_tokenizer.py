"""Plain text, transcripts and tables, on every kind of vocabulary."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.errors import UserError
from mvjax.language.tags import TAGS
from mvjax.tokenizers import Settings, Tokenizer, check_model_vocabulary

KINDS = ["smollm", "bpe_pieces", "unigram_pieces"]
# Not the qwen2 layout: its normaliser (NFC) changes text by design.

LITERALS = [
    *TAGS,
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<repo_name>",
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x0A>",
]
WORDS = st.one_of(
    st.sampled_from(
        [*LITERALS, "\n", "\n\n", " ", "  ", "\t", "1", "23", "1.1", ":", "1:", "2.10: ", "<", ">", "\r\n"]
    ),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=6),
)
TEXTS = st.lists(WORDS, max_size=12).map("".join)

TRANSCRIPT = """<Think>
Let's think in parallel.
<Parallel>
<Goal>
<Outline>
1: Count the apples.
</Outline>
<Outline>
12: Ratio 3:4
</Outline>
</Goal>
<Path>
1: There are 3:
<Parallel>
<Goal>
<Outline>
1.1: go
</Outline>
</Goal>
<Path>
1.1:deep
</Path>
<Conclusion>
ok
</Conclusion>
</Parallel>
</Path>
<Path>
12: Ratio 3:4
</Path>
<Conclusion>
Done.
</Conclusion>
</Parallel>

So 42.
</Think>

42"""


@pytest.fixture(scope="session", params=KINDS)
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session", params=[*KINDS, "qwen"])
def any_tokenizer(request):
    return request.getfixturevalue(request.param)


class TestPlainText:
    @settings(max_examples=60, deadline=None)
    @given(text=TEXTS)
    def test_text_comes_back(self, tokenizer, text):
        if "\u2581" in text:  # SentencePiece's own sign for a space
            text = text.replace("\u2581", "")
        assert tokenizer.decode(tokenizer.encode(text)) == text

    @settings(max_examples=60, deadline=None)
    @given(text=TEXTS)
    def test_never_a_control_token(self, any_tokenizer, text):
        controls = {token.id for token in any_tokenizer.backend.controls}
        assert controls.issuperset(any_tokenizer.tag_ids)
        assert not controls & set(any_tokenizer.encode(text))

    def test_control_tokens_decode_to_their_literals(self, any_tokenizer):
        assert any_tokenizer.decode(any_tokenizer.tag_ids) == "".join(TAGS)

    def test_bytes_join_to_the_text(self, any_tokenizer, corpus):
        ids = any_tokenizer.encode("naïve 日本 😀")
        assert b"".join(map(any_tokenizer.token_bytes, ids)).decode() == "naïve 日本 😀"

    def test_half_a_character_is_marked(self, smollm):
        ids = smollm.encode("日")
        assert len(ids) > 1
        assert "\ufffd" in smollm.decode(ids[:1])

    def test_empty(self, any_tokenizer):
        assert any_tokenizer.encode("") == []
        assert any_tokenizer.decode([]) == ""

    def test_text_and_ids_that_are_none_are_refused(self, any_tokenizer):
        with pytest.raises(UserError, match="not valid Unicode"):
            any_tokenizer.encode("a\ud800b")
        for index in (-1, any_tokenizer.vocab_size):
            with pytest.raises(UserError, match="not in the vocabulary"):
                any_tokenizer.decode([index])


class TestTags:
    def test_ids_follow_the_vocabulary(self, base, smollm):
        assert base.tag_ids is None
        assert smollm.tag_ids == tuple(range(base.vocab_size, base.vocab_size + 12))
        assert smollm.vocab_size == base.vocab_size + 12

    def test_adding_twice_is_adding_once(self, any_tokenizer):
        assert any_tokenizer.with_control_tags() is any_tokenizer

    def test_rows_that_pad_the_matrix_are_used_first(self, qwen, vocabulary):
        # As on Qwen2.5: 151643 text tokens, 22 added ones, tags from 151665, rows up to 151936.
        own = len(vocabulary[0]) + 2
        assert qwen.tag_ids == tuple(range(own, own + 12))
        check_model_vocabulary(qwen, own + 20)

    def test_plain_encoding_does_not_depend_on_the_tags(self, base, smollm, corpus):
        assert smollm.encode(corpus) == base.encode(corpus)

    def test_pieces_spell_the_tags(self, any_tokenizer):
        for tag, ids in zip(TAGS, any_tokenizer.tag_pieces(), strict=True):
            assert any_tokenizer.decode(ids) == tag
            assert len(ids) > 1

    def test_responses_need_tags(self, base):
        with pytest.raises(ValueError, match="with_control_tags"):
            base.encode_response("text")


class TestResponse:
    @settings(max_examples=60, deadline=None)
    @given(text=TEXTS)
    def test_text_comes_back(self, tokenizer, text):
        text = text.replace("\u2581", "")
        assert tokenizer.decode(tokenizer.encode_response(text)) == text.replace("\r\n", "\n")

    @settings(max_examples=50, deadline=None)
    @given(text=TEXTS)
    def test_every_tag_is_one_token_and_nothing_else_is(self, any_tokenizer, text):
        ids = any_tokenizer.encode_response(text)
        found = [TAGS[any_tokenizer.tag_ids.index(i)] for i in ids if i in any_tokenizer.tag_ids]
        assert found == [tag for tag in split_tags(text) if tag in TAGS]
        others = {token.id for token in any_tokenizer.backend.controls} - set(any_tokenizer.tag_ids)
        assert not others & set(ids)

    def test_what_the_interpreter_writes(self, any_tokenizer):
        """After every tag the separator alone; after <Path> the label as kept from the outline, then ":"."""
        tables = any_tokenizer.tables()
        ids = any_tokenizer.encode_response(TRANSCRIPT)
        assert any_tokenizer.decode(ids) == TRANSCRIPT
        labels: dict[str, list[tuple[int, ...]]] = {"<Outline>": [], "<Path>": []}
        for i, token in enumerate(ids[:-1]):
            code = tables.codes[token]
            if code < 0:
                continue
            assert ids[i + 1] == tables.separator_id, f"after {TAGS[code]} at {i}"
            if TAGS[code] in labels:
                end = next(j for j in range(i + 2, len(ids)) if tables.colon[ids[j]])
                assert ids[end] == tables.colon_id
                labels[TAGS[code]].append(tuple(ids[i + 2 : end]))
        one, twelve = tables.number_ids[0], tables.number_ids[11]
        nested = (*one, tables.dot_id, *one)
        assert labels["<Outline>"] == [one, twelve, nested]
        assert labels["<Path>"] == [one, nested, twelve]

    def test_rest_of_the_head_is_cut_like_text(self, smollm):
        ids = smollm.encode_response("<Path>\n1: go on\n</Path>")
        opening, closing = smollm.tag_ids[8:10]
        pieces = ["\n", "1", ":", " go on\n"]
        assert ids == [opening, *(i for piece in pieces for i in smollm.encode(piece)), closing]

    def test_second_newline_after_a_tag_stands_apart(self, any_tokenizer, smollm):
        assert len(smollm.encode("\n\n")) == 1
        close, separator = any_tokenizer.tag_ids[3], any_tokenizer.separator_id
        ids = any_tokenizer.encode_response("</Parallel>\n\nSo</Parallel>\n\n")
        assert ids == [close, separator, *any_tokenizer._plain("\nSo"), close, separator, *any_tokenizer._plain("\n")]

    def test_text_that_is_no_label_stays_text(self, any_tokenizer):
        for text in ("<Path>\nfoo: 1", "<Path>", "<Path>1:x", "<Path>\n1.: x", "<Path>\n٣: x"):
            assert any_tokenizer.decode(any_tokenizer.encode_response(text)) == text


def split_tags(text: str) -> list[str]:
    """Tags and the text between them, by looking at every place."""
    parts, rest = [], ""
    while text:
        tag = next((tag for tag in TAGS if text.startswith(tag)), None)
        rest += "" if tag else text[0]
        if tag:
            parts += [rest, tag]
            rest = ""
        text = text[len(tag or text[0]) :]
    return [*parts, rest]


class TestTables:
    def test_against_the_tokens(self, any_tokenizer):
        tables = any_tokenizer.tables()
        literal = [any_tokenizer.token_bytes(i) for i in range(any_tokenizer.vocab_size)]
        assert tables.codes.dtype == np.int8
        assert tables.codes.shape == tables.colon.shape == tables.newline.shape == (any_tokenizer.vocab_size,)
        assert [i for i, code in enumerate(tables.codes) if code >= 0] == list(tables.tag_ids)
        assert tables.codes[list(tables.tag_ids)].tolist() == list(range(12))
        assert tables.colon.tolist() == [b":" in piece for piece in literal]
        assert tables.newline.tolist() == [b"\n" in piece for piece in literal]
        assert literal[tables.separator_id] == b"\n"
        assert literal[tables.colon_id] == b":"
        assert literal[tables.dot_id] == b"."
        assert [any_tokenizer.decode(ids) for ids in tables.number_ids] == [str(n) for n in range(1, 65)]

    def test_padded_to_the_model(self, smollm):
        tables = smollm.tables(rows=smollm.vocab_size + 5)
        assert tables.codes.shape == (smollm.vocab_size + 5,)
        assert (tables.codes[smollm.vocab_size :] == -1).all()
        assert not tables.colon[smollm.vocab_size :].any()

    def test_too_small_a_model(self, smollm):
        check_model_vocabulary(smollm, smollm.vocab_size)
        with pytest.raises(UserError, match="do not belong together"):
            check_model_vocabulary(smollm, smollm.vocab_size - 1)
        with pytest.raises(UserError, match="do not belong together"):
            smollm.tables(rows=smollm.vocab_size - 1)


class TestEnds:
    def test_from_the_file(self, smollm):
        assert smollm.eos_ids == (2, 0)  # declared first, then those known by name
        assert (smollm.bos_id, smollm.pad_id) == (1, 2)

    def test_a_declared_pad_goes_first(self, smollm):
        declared = Tokenizer(smollm.backend, Settings(eos=smollm.settings.eos, pad=":"))
        assert declared.pad_id == smollm.backend.find(":") != smollm.pad_id


def test_fingerprints_know_where_tokens_end():
    one, other = (Tokenizer(SimpleNamespace(pieces=lambda p=p: p)) for p in ([b"a", b"bc"], [b"ab", b"c"]))
    assert one.fingerprint != other.fingerprint
