"""Vocabulary files: ids equal to Hugging Face's, saving and reading back, damaged files."""

import json

import gguf
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.errors import UserError
from mvjax.language.tags import TAGS
from mvjax.tokenizers import Settings, Tokenizer, load_tokenizer, sentencepiece_schema
from mvjax.tokenizers.gguf_metadata import read_metadata
from mvjax.tokenizers.sentencepiece_model import train_sentencepiece

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}<|im_start|>assistant<|im_end|><|im_start|>"
)
SHARES = (0.0, 0.001, 0.3, 0.99)
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


class TestSmolLM:
    """Against the library's own objects, put together as the published tokenizer.json of SmolLM2 says."""

    def test_corpus(self, base, reference, corpus):
        for text in [corpus, *corpus.splitlines(keepends=True)]:
            assert base.encode(text) == plain_ids(reference, text)

    @settings(max_examples=200, deadline=None)
    @given(text=ANY_TEXT)
    def test_any_text(self, base, reference, text):
        assert base.encode(text) == plain_ids(reference, text)

    def test_digits_stand_alone(self, base):
        assert [base.decode([i]) for i in base.encode("1234")] == list("1234")

    def test_vocabulary_without_some_bytes(self, tmp_path, write_vocabulary, vocabulary):
        """Bytes that have no token are dropped, as Hugging Face does (SmolLM2 lacks a few control characters)."""
        tokens = ["unused" if token == "\u0104" else token for token in vocabulary[0]]  # byte 4
        path = write_vocabulary(tmp_path / "v.gguf", tokens=tokens)
        tokenizer = load_tokenizer(path)
        assert tokenizer.decode(tokenizer.encode("a\x04b")) == "ab"


def plain_ids(reference, text):
    """Ids by the library, special tokens taken as text."""
    reference.encode_special_tokens = True
    ids = reference.encode(text, add_special_tokens=False).ids
    reference.encode_special_tokens = False
    return ids


class TestGGUF:
    def test_metadata_as_the_gguf_package_reads_it(self, smollm_gguf):
        fields = gguf.GGUFReader(smollm_gguf).fields
        mine = read_metadata(smollm_gguf)
        assert mine.keys() == {key for key in fields if not key.startswith("GGUF.")}
        assert all(mine[key] == fields[key].contents() for key in mine)

    def test_user_defined_tokens_are_found_in_text(self, qwen):
        assert qwen.encode("</tool_call>") == [qwen.backend.find("</tool_call>")]

    @pytest.mark.parametrize(
        ("damage", "reason"),
        [
            *((lambda data, share=share: data[: int(len(data) * share)], "cut short|not a GGUF") for share in SHARES),
            # The length of the first key.
            (lambda data: data[:24] + b"\xff" * 8 + data[32:], "cut short inside its header, or damaged"),
            (lambda data: b"PK\x03\x04 something else", "not a GGUF file"),
            (lambda data: data[:4] + b"\x01\x00\x00\x00" + data[8:], "version 1 is not supported"),
        ],
    )
    def test_damaged(self, smollm_gguf, tmp_path, damage, reason):
        path = tmp_path / "bad.gguf"
        path.write_bytes(damage(smollm_gguf.read_bytes()))
        with pytest.raises(UserError, match=rf"bad\.gguf: .*({reason})"):
            load_tokenizer(path)

    @pytest.mark.parametrize(
        ("parts", "reason"),
        [
            ({"pre": "gemma4"}, "pre-tokenizer 'gemma4' cuts text is not known to mvjax; give --tokenizer"),
            ({"model": "rwkv"}, "of kind 'rwkv'; byte-level BPE .* and SentencePiece .*: give --tokenizer"),
            ({"model": "llama"}, "has no unknown token; give --tokenizer"),
            ({"merges": ["zq xj"]}, "does not fit its vocabulary"),
            ({"types": [1, 1, 1]}, "token types"),
        ],
    )
    def test_vocabularies_that_cannot_be_used(self, tmp_path, write_vocabulary, parts, reason):
        with pytest.raises(UserError, match=reason):
            load_tokenizer(write_vocabulary(tmp_path / "v.gguf", **parts))

    def test_no_vocabulary(self, tmp_path):
        path = tmp_path / "none.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UserError, match="holds no vocabulary"):
            load_tokenizer(path)


class TestSaving:
    @pytest.mark.parametrize("kind", ["base", "smollm", "qwen", "bpe_pieces", "unigram_pieces"])
    def test_reads_back_the_same(self, request, kind, tmp_path, corpus):
        tokenizer = request.getfixturevalue(kind)
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.tag_ids == tokenizer.tag_ids
        assert again.settings == tokenizer.settings
        assert (again.eos_ids, again.bos_id, again.pad_id) == (tokenizer.eos_ids, tokenizer.bos_id, tokenizer.pad_id)
        assert again.encode(corpus) == tokenizer.encode(corpus)
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    @pytest.mark.parametrize("kind", ["smollm", "qwen", "bpe_pieces", "unigram_pieces"])
    def test_the_library_finds_the_tags(self, request, kind, tmp_path):
        import tokenizers

        tokenizer = request.getfixturevalue(kind)
        tokenizer.save(tmp_path)
        library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
        assert library.encode("".join(TAGS), add_special_tokens=False).ids == list(tokenizer.tag_ids)

    @pytest.mark.parametrize("kind", ["bpe_pieces", "unigram_pieces"])
    def test_sentencepiece_in_hugging_faces_form(self, request, kind, tmp_path, corpus):
        tokenizer = request.getfixturevalue(kind)
        tokenizer.save(tmp_path)
        converted = load_tokenizer(tmp_path / "tokenizer.json")
        assert converted.fingerprint == tokenizer.fingerprint
        for line in corpus.splitlines(keepends=True):
            assert converted.encode(line) == tokenizer.encode(line)

    def test_fingerprints_tell_vocabularies_apart(self, base, smollm, qwen, tmp_path, write_vocabulary, vocabulary):
        tokens = vocabulary[0]
        swapped = [*tokens[:-2], tokens[-1], tokens[-2]]
        other = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", tokens=swapped))
        prints = {t.fingerprint for t in (base, smollm, qwen, other)}
        assert len(prints) == 4

    def test_tags_already_in_the_vocabulary_keep_their_ids(self, smollm, tmp_path):
        smollm.save(tmp_path)
        assert load_tokenizer(tmp_path).with_control_tags().tag_ids == smollm.tag_ids


class TestDirectory:
    def test_chat_templates(self, base, tmp_path):
        base.save(tmp_path)
        config = json.loads((tmp_path / "tokenizer_config.json").read_text())
        config["chat_template"] = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert load_tokenizer(tmp_path).settings.chat_template == "yes"
        (tmp_path / "chat_template.jinja").write_text("from a file")
        assert load_tokenizer(tmp_path).settings.chat_template == "from a file"

    def test_ends_of_the_generation_config(self, base, tmp_path):
        base.save(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}))
        assert load_tokenizer(tmp_path).eos_ids == (2, 3, 0)

    def test_limits_of_the_file_do_not_cut_text(self, base, tmp_path, corpus):
        base.save(tmp_path)
        definition = json.loads((tmp_path / "tokenizer.json").read_text())
        cut = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition | {"truncation": cut}))
        assert load_tokenizer(tmp_path).encode(corpus) == base.encode(corpus)

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "holds no tokenizer"),
            (b'{"model": ', "not JSON"),
            (b"[1]", "JSON object"),
            (b"\xff\xfe{}", "not UTF-8"),
            (b"{}", "not a tokenizer definition"),
            (b'{"model": {"type": "WordPiece", "vocab": {}}}', "WordPiece vocabularies are not supported"),
            (b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}', "neither byte-level"),
        ],
    )
    def test_damaged(self, tmp_path, content, reason):
        if content:
            (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(UserError, match=reason):
            load_tokenizer(tmp_path)
        with pytest.raises(UserError, match="no such file"):
            load_tokenizer(tmp_path / "missing")


class TestSentencePiece:
    @pytest.mark.parametrize("kind", ["bpe_pieces", "unigram_pieces"])
    def test_ids_are_sentencepieces(self, request, kind, corpus):
        tokenizer = request.getfixturevalue(kind)
        library = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.backend.model)
        for line in corpus.splitlines(keepends=True):
            if not any(tag in line for tag in TAGS):
                assert tokenizer.encode(line) == library.encode(line)
        assert library.encode("".join(TAGS)) == list(tokenizer.tag_ids)

    def test_tags_are_added_to_a_model_without_them(self, tmp_path, corpus):
        path = foreign_model(tmp_path / "foreign.model", corpus)
        tokenizer = load_tokenizer(path)
        assert tokenizer.tag_ids is None
        tagged = tokenizer.with_control_tags()
        assert tagged.tag_ids == tuple(range(tokenizer.vocab_size, tokenizer.vocab_size + 12))
        assert tagged.encode(corpus) == tokenizer.encode(corpus)

    def test_space_before_the_first_word_only(self, tmp_path, corpus):
        """A model that puts a space before text does so at the start of a text, not after each tag."""
        tokenizer = load_tokenizer(foreign_model(tmp_path / "foreign.model", corpus)).with_control_tags()
        assert tokenizer.backend.prefix_space
        library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "foreign.model"))
        assert tokenizer.encode("the path") == library.encode("the path")
        for text in ("the path", " the path", "<Path>\n1: the\n</Path>\nend", "the <Path> end"):
            assert tokenizer.decode(tokenizer.encode_response(text)) == text
        chat = Tokenizer(
            tokenizer.backend, Settings(chat_template="{% for m in messages %}{{ m['content'] }}{% endfor %}")
        )
        messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the path"}]
        assert chat.render_chat(messages) == [*chat.encode("a"), *chat.encode_response("the path")]
        tokenizer.save(tmp_path / "saved")
        converted = load_tokenizer(tmp_path / "saved" / "tokenizer.json")
        for text in ("the path", " the path", "12: x"):
            assert converted.encode(text) == tokenizer.encode(text)
            assert converted.encode_response("<Goal>" + text) == tokenizer.encode_response("<Goal>" + text)

    def test_training_is_repeatable(self, tmp_path, corpus):
        first = train_sentencepiece([corpus], tmp_path / "a.model", vocab_size=500)
        second = train_sentencepiece([corpus], tmp_path / "b.model", vocab_size=500)
        assert load_tokenizer(first).fingerprint == load_tokenizer(second).fingerprint
        assert load_tokenizer(first).vocab_size == 500

    def test_too_little_text(self, tmp_path):
        with pytest.raises(UserError, match="no text"):
            train_sentencepiece([], tmp_path / "a.model", vocab_size=500)
        with pytest.raises(UserError, match="vocabulary of 500 failed"):
            train_sentencepiece(["a b c"], tmp_path / "a.model", vocab_size=500)
        assert not list(tmp_path.iterdir())

    def test_damaged(self, tmp_path, bpe_pieces):
        path = tmp_path / "bad.model"
        for data in (b"", b"not a model\x00", bpe_pieces.backend.model[:1000]):
            path.write_bytes(data)
            with pytest.raises(UserError, match="not a SentencePiece model"):
                load_tokenizer(path)


class TestSentencePieceInGGUF:
    """Vocabularies of kind "llama": pieces, scores and types of a SentencePiece model."""

    @pytest.fixture
    def foreign(self, tmp_path, corpus):
        """A model file and what a converter makes of it."""
        path = foreign_model(tmp_path / "foreign.model", corpus)
        library = sentencepiece.SentencePieceProcessor(model_file=str(path))
        count = library.get_piece_size()
        kinds = [
            2 if library.is_unknown(i) else 3 if library.is_control(i) else 6 if library.is_byte(i) else 1
            for i in range(count)
        ]
        parts = {"tokens": [library.id_to_piece(i) for i in range(count)], "types": kinds, "merges": None}
        parts |= {"scores": [library.get_score(i) for i in range(count)], "model": "llama", "pre": "default"}
        return library, parts | {"bos": 1, "eos": 2, "padding": 2, "template": CHATML}

    @pytest.mark.parametrize("change", ["", "types", "scores"])
    def test_ids_are_sentencepieces(self, tmp_path, write_vocabulary, foreign, corpus, change):
        library, parts = foreign
        if change == "types":  # as converters write them that know no types
            parts |= {"types": [3] * 3 + [1] * (len(parts["tokens"]) - 3)}
        elif change == "scores":
            parts |= {"scores": [-float(i) for i in range(len(parts["tokens"]))]}
        tokenizer = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", **parts))
        assert (tokenizer.bos_id, tokenizer.eos_ids[0], tokenizer.vocab_size) == (1, 2, library.get_piece_size())
        assert tokenizer.settings.chat_template == CHATML
        for text in [corpus, *corpus.splitlines(keepends=True), "\u4e2d \U0001f600  x ", "<s> </s> <unk>", " 0x0A"]:
            ids = tokenizer.encode(text)
            assert ids == library.encode(text)
            assert tokenizer.decode(ids) == text

    def test_added_tokens_and_padding(self, tmp_path, write_vocabulary, foreign, corpus):
        library, parts = foreign
        count = library.get_piece_size()
        parts["tokens"] += ["<|im_start|>", "<|im_end|>", "<tool>", "[PAD0]", "[PAD1]"]
        parts["types"] += [3, 4, 4, 5, 5]
        parts["scores"] += [-1000.0] * 5
        tokenizer = load_tokenizer(write_vocabulary(tmp_path / "v.gguf", **parts, eot=count + 1))
        assert tokenizer.vocab_size == count + 3
        assert tokenizer.eos_ids == (2, count + 1)
        text = "a <|im_start|> b <|im_end|> c"
        assert tokenizer.encode(text) == library.encode(text)  # the first is special, the second stands in the template
        assert count + 2 in tokenizer.encode("x <tool> y")
        chat = tokenizer.render_chat([{"role": "user", "content": "<|im_end|>"}])
        assert chat.count(count) == 3
        assert chat.count(count + 1) == 2
        tagged = tokenizer.with_control_tags()
        assert tagged.tag_ids == tuple(range(count + 3, count + 15))
        tagged.save(tmp_path / "saved")
        again = load_tokenizer(tmp_path / "saved")
        assert again.fingerprint == tagged.fingerprint
        assert again.settings == tagged.settings
        assert again.encode(corpus) == tokenizer.encode(corpus)

    def test_no_space_before_text(self, tmp_path, write_vocabulary, foreign):
        _, parts = foreign
        path = write_vocabulary(tmp_path / "v.gguf", **parts, change=lambda w: w.add_add_space_prefix(False))
        tokenizer = load_tokenizer(path)
        assert not tokenizer.backend.prefix_space
        assert tokenizer.decode(tokenizer.encode("a")) == "a"

    @pytest.mark.parametrize(
        ("damage", "reason"), [("twice", "spelt alike or lack a score"), ("scores", "spelt alike or lack a score")]
    )
    def test_damaged(self, tmp_path, write_vocabulary, foreign, damage, reason):
        _, parts = foreign
        if damage == "twice":
            parts["tokens"][-1] = parts["tokens"][-2]
        else:
            parts["scores"] = parts["scores"][:5]
        with pytest.raises(UserError, match=reason):
            load_tokenizer(write_vocabulary(tmp_path / "v.gguf", **parts))


def foreign_model(path, corpus):
    """A model with SentencePiece's own defaults for spaces, and without the tags."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus.splitlines()),
        model_prefix=str(path.with_suffix("")),
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return path


def test_schema_is_sentencepieces():
    """Field numbers, kinds and defaults equal those of the package's own message classes."""
    try:
        from sentencepiece import sentencepiece_model_pb2 as package
    except Exception as error:  # it demands a protobuf as new as the one that generated it
        pytest.skip(f"the package's classes cannot be imported here: {error}")
    mine = sentencepiece_schema.Model.DESCRIPTOR
    theirs = package.ModelProto.DESCRIPTOR
    pairs = [(mine, theirs)]
    for field in mine.fields:
        assert theirs.fields_by_number[field.number].name == field.name
        pairs.append((field.message_type, theirs.fields_by_number[field.number].message_type))
    for message, other in pairs[1:]:
        for field in message.fields:
            found = other.fields_by_number[field.number]
            assert (found.name, found.default_value) == (field.name, field.default_value)
            assert found.type == field.type or found.enum_type is not None
