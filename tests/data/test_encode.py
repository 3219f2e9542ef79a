"""Records as tokens: the prompt, the response, the end of text, and what is trained on."""

from dataclasses import replace

import numpy as np
import pytest
from identical import assert_identical

from mvjax.data.codec import from_bytes, to_bytes
from mvjax.data.encode import SUFFIXES, encode_record, with_suffix
from mvjax.data.records import Record
from mvjax.errors import UserError
from mvjax.language import TranscriptError
from mvjax.language.layout import PROMPT, SEQUENTIAL


@pytest.mark.parametrize("form", ["multiverse", "autoregressive"])
def test_prompt_response_and_end(tokenizer, records, form):
    for record in records[:8]:
        example = encode_record(tokenizer, record, form)
        body = record.response if form == "multiverse" else record.autoregressive
        text = tokenizer.decode(example.tokens)
        prompt = record.messages[0]["content"] + SUFFIXES[form]
        assert text == f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{body}<|im_end|>"
        start = example.layout.prompt_length
        assert tokenizer.decode(example.tokens[:start]).endswith("assistant\n")
        assert not example.loss[:start].any()
        assert example.loss[start]
        assert example.loss[-1]
        assert example.tokens[-1] == tokenizer.eos_ids[0]
        assert (example.id, example.mode) == (record.id, form)


def test_the_sequential_form_has_one_segment_and_full_loss(tokenizer, records):
    example = encode_record(tokenizer, records[1], "autoregressive")
    assert example.layout.depth == 0
    assert set(example.layout.segment) == {0}
    assert example.loss[example.layout.prompt_length :].all()


def test_think_is_a_control_token_in_the_sequential_form_too(tokenizer, records):
    """The tokens that the interpreter and `encode_response` make; other tags in it stay text."""
    text = "<Think>\nA <Path> is a tag.\n</Think>\n\nAnswer: a </Think> tag."
    record = replace(records[0], response="<Think>\nIt is a tag.\n</Think>\n\nAnswer: a tag.", autoregressive=text)
    think, close = tokenizer.tag_ids[:2]
    example = encode_record(tokenizer, record, "autoregressive")
    start = example.layout.prompt_length
    assert tokenizer.decode(example.tokens[start:-1]) == text
    assert [token for token in example.tokens if token in tokenizer.tag_ids] == [think, close]
    assert example.tokens[start : start + 2].tolist() == [think, tokenizer.separator_id]
    assert set(example.layout.segment) == {0}
    plain = replace(record, autoregressive=record.response)
    tokens = encode_record(tokenizer, plain, "autoregressive").tokens
    of_both = encode_record(tokenizer, plain, "multiverse").tokens
    assert tokens[start:].tolist() == of_both[len(of_both) - len(tokens) + start :].tolist()
    for other in ("It is <Think>\na\n</Think>\nb", "<Think> without an end"):
        example = encode_record(tokenizer, replace(record, autoregressive=other), "autoregressive")
        assert not set(example.tokens) & set(tokenizer.tag_ids)
    sequential = replace(record, sequential=True)
    assert not set(encode_record(tokenizer, sequential).tokens) & set(tokenizer.tag_ids)


def test_no_loss_on_what_the_interpreter_writes(tokenizer, records):
    record = next(record for record in records if record.meta["parallel"])
    example = encode_record(tokenizer, record)
    path_open, conclusion = tokenizer.tag_ids[8], tokenizer.tag_ids[10]
    starts = np.flatnonzero(example.tokens == path_open)
    assert len(starts) >= 2
    for start in starts:
        assert not example.loss[start : start + 4].any()  # <Path>, newline, label, ":"
    (place,) = np.flatnonzero(example.tokens == conclusion)[-1:]
    assert not example.loss[place : place + 2].any()
    assert example.loss[place + 2]


def test_crlf_line_ends_train_like_newlines(tokenizer, records):
    record = next(record for record in records if record.meta["parallel"])
    crlf = encode_record(tokenizer, replace(record, response=record.response.replace("\n", "\r\n")))
    plain = encode_record(tokenizer, record)
    np.testing.assert_array_equal(crlf.tokens, plain.tokens)
    np.testing.assert_array_equal(crlf.loss, plain.loss)


def test_tags_in_a_prompt_and_in_the_sequential_form_stay_text(tokenizer, records):
    record = replace(
        records[0],
        messages=({"role": "user", "content": "What does <Parallel> mean? </Path>"},),
        autoregressive="A <Path> is a tag.",
        response="A tag.",
    )
    tags = set(tokenizer.tag_ids)
    for form in SUFFIXES:
        example = encode_record(tokenizer, record, form)
        assert not tags & set(example.tokens.tolist())
    assert "A <Path> is a tag." in tokenizer.decode(example.tokens)


def test_earlier_answers_are_laid_out_as_transcripts(tokenizer, records):
    record = next(record for record in records if record.meta["parallel"])
    turns = (*record.messages, {"role": "assistant", "content": record.response}, {"role": "user", "content": "Again."})
    example = encode_record(tokenizer, replace(record, messages=turns))
    once = encode_record(tokenizer, record)
    assert len(example.layout.structure.blocks) == 2 * len(once.layout.structure.blocks)
    assert not example.loss[: example.layout.prompt_length].any()
    assert example.loss.sum() == once.loss.sum()


def test_the_suffix_goes_to_the_last_user_message():
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c "},
    ]
    out = with_suffix(messages, "autoregressive")
    assert [message["content"] for message in out] == ["a", "b", "c" + SUFFIXES["autoregressive"]]
    with pytest.raises(UserError, match="user"):
        with_suffix([{"role": "system", "content": "a"}], "multiverse")


@pytest.mark.parametrize("damage", ["</Parallel>", "</Path>", "</Goal>"])
def test_malformed_and_cut_responses_are_rejected_by_name(tokenizer, records, damage):
    record = next(record for record in records if record.meta["parallel"])
    with pytest.raises(TranscriptError, match=record.id):
        encode_record(tokenizer, replace(record, response=record.response.replace(damage, "", 1)))
    with pytest.raises(TranscriptError, match=record.id):
        encode_record(tokenizer, replace(record, response=record.response.split(damage)[0]))


def test_a_record_that_says_that_it_is_cut_may_end_anywhere(tokenizer, records):
    """SPEC section 4: blocks still open end where the document does; no end of text is trained on."""
    record = next(record for record in records if record.meta["parallel"])
    ends = [record.response.index(tag) + len(tag) for tag in ("</Goal>", "<Path>\n2: ", "<Conclusion>\n")]
    for end in (*ends, len(record.response)):
        cut = replace(record, response=record.response[:end], cut=True)
        example = encode_record(tokenizer, cut)
        assert tokenizer.decode(example.tokens).endswith(f"<|im_start|>assistant\n{cut.response}")
        assert example.layout.open == (end in ends)
        assert example.tokens[-1] not in tokenizer.eos_ids
        whole = encode_record(tokenizer, record)
        assert example.layout.position.tolist() == whole.layout.position[: len(example.tokens)].tolist()
    with pytest.raises(TranscriptError, match="outside"):
        encode_record(tokenizer, replace(record, response="a\n</Path>\nb", cut=True))


ANSWERS = ("Hello.", "Of <Path> and <|im_end|>.", "Bye.")
CHAT = Record(
    "chat",
    (
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": ANSWERS[0]},
        {"role": "user", "content": "What is <Path>?"},
        {"role": "assistant", "content": ANSWERS[1]},
        {"role": "user", "content": "Thanks."},
    ),
    ANSWERS[2],
    ANSWERS[2],
    "",
    "",
    sequential=True,
    suffix=False,
)


def trained(tokenizer, example):
    """The trained texts, each up to the end of its turn."""
    runs = np.split(example.tokens, np.flatnonzero(np.diff(example.loss.astype(int))) + 1)
    return [tokenizer.decode(run) for run in runs[1::2]]


def test_of_a_conversation_every_answer_is_trained_on(tokenizer):
    examples = [encode_record(tokenizer, CHAT, form) for form in SUFFIXES]
    for example in examples:
        assert trained(tokenizer, example) == [f"{answer}<|im_end|>" for answer in ANSWERS]
        assert set(example.layout.segment) == {0}
        assert not set(tokenizer.tag_ids) & set(example.tokens.tolist())
        assert (example.layout.part == np.where(example.loss, SEQUENTIAL, PROMPT)).all()
        # Each answer is what the model would produce after its prompt.
        start = np.flatnonzero(example.loss)[0]
        assert example.tokens[:start].tolist() == tokenizer.render_chat(CHAT.messages[:1])
    assert_identical(examples[0], replace(examples[1], mode="multiverse"))
    assert_identical(from_bytes(to_bytes(examples[0]), "chat", "multiverse"), examples[0])


def test_an_earlier_answer_that_the_template_changes_is_not_trained_on(tokenizer):
    template = tokenizer.settings.chat_template.replace(
        "message['content']", "message['content'] | replace('Hello', 'Greetings')"
    )
    changed = replace(tokenizer, settings=replace(tokenizer.settings, chat_template=template))
    # Behind the changed answer the prompts are those of the template too.
    assert trained(changed, encode_record(changed, CHAT)) == [f"{answer}<|im_end|>" for answer in ANSWERS[1:]]
    refusing = (
        "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}"
        + tokenizer.settings.chat_template
    )
    refusing = replace(tokenizer, settings=replace(tokenizer.settings, chat_template=refusing))
    assert len(trained(refusing, encode_record(refusing, CHAT))) == 3
    system = replace(CHAT, messages=({"role": "assistant", "content": "First."}, *CHAT.messages))
    with pytest.raises(UserError, match="user first"):
        encode_record(refusing, system)


@pytest.mark.parametrize("suffix", [False, True])
def test_the_suffix_of_plain_data_is_an_option(tokenizer, suffix):
    for form in SUFFIXES:
        example = encode_record(tokenizer, replace(CHAT, suffix=suffix), form)
        prompt = tokenizer.decode(example.tokens[: example.layout.prompt_length])
        assert prompt.count(SUFFIXES["autoregressive"]) == suffix
        assert SUFFIXES["multiverse"] not in prompt
        assert len(trained(tokenizer, example)) == 3


def test_an_unknown_form_is_refused(tokenizer, records):
    with pytest.raises(ValueError, match="form"):
        encode_record(tokenizer, records[0], "other")
