"""Chat templates: what they render, and what no message can do to them."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvjax.errors import UserError
from mvjax.language.tags import TAGS
from mvjax.tokenizers import Settings, Tokenizer

ANSWER = (
    "<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n</Goal>\n<Path>\n1: b\n</Path>\n"
    "<Conclusion>\nc\n</Conclusion>\n</Parallel>"
)
PARTS = st.sampled_from(
    [*TAGS, "<|im_end|>", "<|im_start|>", "<tool_call>", "<", "<|", "im_end|>", ">", "|", "a", " ", "\n", "\ue000"]
)
NASTY = st.one_of(
    st.lists(PARTS, max_size=8).map("".join), st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
)


def with_template(tokenizer: Tokenizer, template: str | None) -> Tokenizer:
    old = tokenizer.settings
    return Tokenizer(tokenizer.backend, Settings(old.bos, old.eos, old.pad, old.unknown, template))


def controls(tokenizer, ids):
    known = {token.id: token.text for token in tokenizer.backend.controls}
    return [known[i] for i in ids if i in known]


def user(text):
    return {"role": "user", "content": text}


def test_text_and_special_tokens(smollm):
    ids = smollm.render_chat([user("Hi")])
    expected = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert smollm.decode(ids) == expected
    assert controls(smollm, ids) == ["<|im_start|>", "<|im_end|>"] * 2 + ["<|im_start|>"]


def test_ids_are_hugging_faces(smollm, reference):
    """Where no message imitates a control token, the ids are those that the library makes of the rendered text."""
    messages = [user("Count 12 apples:\n  3 red"), {"role": "assistant", "content": "12."}, user("sure?")]
    ids = smollm.render_chat(messages, system="Be short.")
    assert ids == reference.encode(smollm.decode(ids)).ids


def test_system_message_comes_first(smollm):
    text = smollm.decode(smollm.render_chat([user("Hi")], system="Be short.", add_generation_prompt=False))
    assert text == "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"


@settings(max_examples=60, deadline=None)
@given(text=NASTY, system=NASTY)
def test_messages_cannot_make_control_tokens(smollm, text, system):
    quiet = controls(smollm, smollm.render_chat([user("a"), user("b")], system="c"))
    ids = smollm.render_chat([user(text), user("b")], system=system)
    assert controls(smollm, ids) == quiet
    header = "<|im_start|>system\n" + system + "<|im_end|>\n<|im_start|>user\n" + text + "<|im_end|>\n"
    assert smollm.decode(ids).startswith(header)


TRICKY = [
    "{{ messages[0]['content'] | lower }}",
    "{{ messages[0]['content'] | reverse }}",
    "{{ messages[0]['content'] | replace('X', '') }}",
    "{{ messages[0]['content'].split('X') | join('') }}",
    "{{ messages[0]['content'] | trim }}{{ messages[1]['content'] | trim }}",
    "{{ messages | tojson }}",
    "{{ messages[0]['content'][:5] }}{{ messages[0]['content'][5:] }}",
    "{{ messages[0]['name'] }}",
]


@pytest.mark.parametrize("template", TRICKY)
@pytest.mark.parametrize("text", ["<|IM_END|> <PATH>", ">|dne_mi|<", "<|im_Xend|>", "<|im_", " <|im_end|><Path> "])
def test_whatever_the_template_does(smollm, template, text):
    tokenizer = with_template(smollm, template)
    ids = tokenizer.render_chat([{**user(text), "name": text}, user("end|>")])
    assert ids
    assert controls(tokenizer, ids) == []


def test_template_sees_text_of_equal_length(smollm):
    tokenizer = with_template(smollm, "{{ messages[0]['content'] | length }}")
    assert tokenizer.decode(tokenizer.render_chat([user("<Path>|<|im_end|>")])) == "17"


def answers(*texts):
    """A conversation in which each question got one of these answers, and a last question."""
    turns = ([user(f"question {i}"), {"role": "assistant", "content": text}] for i, text in enumerate(texts))
    return [*itertools.chain(*turns), user("and now?")]


def test_earlier_answers_are_transcripts(smollm):
    """Token for token those that the engine left: what it computed for them stays a valid prefix."""
    texts = (ANSWER, f"First.\n{ANSWER}\nLast.", "plain", f"<Think>\n{ANSWER}\n</Think>\nDone.")
    messages = answers(*texts)
    messages[0]["content"] += " <Path>"
    prompt = smollm.render_chat(messages[:1])
    for i, text in enumerate(texts):
        prompt += smollm.encode_response(text)
        whole = smollm.render_chat(messages[: 2 * i + 3])
        assert whole[: len(prompt)] == prompt
        assert [one for one in controls(smollm, whole[len(prompt) :]) if one in TAGS] == []
        prompt = whole


def test_special_tokens_in_earlier_answers_stay_text(smollm):
    ids = smollm.render_chat([user("q"), {"role": "assistant", "content": "a<|im_end|>b"}])
    assert controls(smollm, ids).count("<|im_end|>") == 3  # of the template: system, user, assistant
    assert "a<|im_end|>b<|im_end|>" in smollm.decode(ids)


def test_answers_are_trimmed_where_the_template_trims(smollm):
    tokenizer = with_template(smollm, "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}")
    ids = tokenizer.render_chat(
        [{"role": "assistant", "content": "\n\nyes\n"}, {"role": "assistant", "content": " \n"}]
    )
    assert tokenizer.decode(ids) == "[yes][]"


def test_structure_of_the_template_cannot_be_typed(qwen):
    """Added tokens that the template uses are its own, even where the vocabulary does not call them special."""
    assert "<tool_call>" in {token.text for token in qwen.backend.controls}
    assert "</tool_call>" not in {token.text for token in qwen.backend.controls}
    tool = qwen.backend.find("<tool_call>")
    assert tool not in qwen.render_chat([user("<tool_call>")])
    written = with_template(qwen, "<tool_call>{{ messages[0]['content'] }}")
    assert written.render_chat([user("<tool_call>")]).count(tool) == 1


def test_white_space_that_belongs_to_a_token(smollm_gguf, tmp_path):
    """rstrip, as Phi's <|user|> has it: the token takes the white space that follows."""
    from mvjax.tokenizers import load_tokenizer

    load_tokenizer(smollm_gguf).save(tmp_path)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    definition["added_tokens"][1]["rstrip"] = True
    definition["added_tokens"][2]["lstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = load_tokenizer(tmp_path)
    stripped = with_template(tokenizer, "<|im_start|> \n{{ messages[0]['content'] }}\n <|im_end|>")
    assert stripped.decode(stripped.render_chat([user("x")])) == "<|im_start|>x<|im_end|>"


def test_extensions_of_chat_templates(smollm):
    template = (
        "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}"
        "{% generation %}{{ m['content'] }}{% endgeneration %}{% endfor %}"
        "{{ strftime_now('%Y') | length }}{{ eos_token }}"
    )
    tokenizer = with_template(smollm, template)
    assert tokenizer.decode(tokenizer.render_chat([user("a"), user("b"), user("c")])) == "ab4<|im_end|>"


class TestRefusals:
    def test_no_template(self, smollm):
        bare = with_template(smollm, None)
        with pytest.raises(UserError, match="no chat template"):
            bare.render_chat([user("Hi")])
        ids = bare.render_chat([user("Hi <Path>")], system="Be kind.", plain_fallback=True)
        assert bare.decode(ids) == "System: Be kind.\n\nUser: Hi <Path>\n\nAssistant:\n"
        assert controls(bare, ids) == []

    @pytest.mark.parametrize(
        ("template", "reason"),
        [
            ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
            ("{% if %}", "Expected an expression"),
            ("{{ messages[0]['content'] + 1 }}", "can only concatenate"),
            ("{{ ''.__class__.__mro__ }}", "unsafe"),
            ("{{ messages.append(1) }}", "unsafe"),
            ("{{ nothing.at.all }}", "undefined"),
        ],
    )
    def test_templates_that_fail(self, smollm, template, reason):
        with pytest.raises(UserError, match="chat template cannot render") as caught:
            with_template(smollm, template).render_chat([user("Hi")])
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "message",
        [
            {"role": "user"},
            {"content": "x"},
            {"role": "user", "content": 3},
            {"role": "<|im_end|>", "content": ""},
            "text",
        ],
    )
    def test_messages_of_the_wrong_form(self, smollm, message):
        with pytest.raises(UserError, match="message 1"):
            smollm.render_chat([user("fine"), message])
