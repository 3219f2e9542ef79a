"""Conversations: what the next turn's prompt is made of, what the engine finds of it, and that it is as in training."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from faulty_engine import SIZES, bias
from flax import nnx
from hash_model import PagedHashModel, forward
from naive_layout import dense_mask
from random_requests import CODES, TABLES
from served_hash import END, OTHER_END, tokenizer

from mvjax.engine import Engine, EngineConfig, Limits, SamplingParams
from mvjax.errors import UserError
from mvjax.language import lay_out, tags
from mvjax.models import Decoder, from_hf
from mvjax.models.decode import DecoderStepModel
from mvjax.serving.answer_text import AnswerText
from mvjax.serving.conversations import Conversations
from mvjax.tokenizers.tokenizer import Tokenizer

pytestmark = pytest.mark.xdist_group("engine/hash_model")
TEMPLATE = (
    "{% for m in messages %}<|over|>{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|over|>{% endif %}"
)
PAGE, LONG = 16, Limits(max_new_tokens=130, min_block_share=25, max_paths=3)

SPLITS = {tags.OUTLINE_OPEN: 3.0, tags.OUTLINE_CLOSE: 3.0, tags.PATH_CLOSE: 3.0, tags.PARALLEL_OPEN: 1.0}
"""Biases that make blocks of several paths."""
NONE = {}


def with_template(template):
    return Tokenizer(tokenizer().backend, dataclasses.replace(tokenizer().settings, chat_template=template))


@functools.cache
def shared_engine():
    return Engine(PagedHashModel(bias(), PAGE), bias(), with_template(TEMPLATE), EngineConfig(**SIZES, pages=13))


class Chat:
    """A client, with its view of the conversation, and a server without HTTP."""

    def __init__(self, template=TEMPLATE, branches="apart", **options):
        self.tokenizer, self.branches = with_template(template), branches
        self.memory = Conversations(self.tokenizer, TABLES, **options)
        self.messages, self.turns, self.engine = [], [], shared_engine()
        self.engine.reset()

    def prompt(self, messages, key="k", mode="parallel", suffix="", **options):
        return self.memory.prompt(messages, key=key, mode=mode, suffix=suffix, **options)

    def say(self, text, seed=0, key="k", mode="parallel", limits=LONG, splits=SPLITS, **options):
        """Ask, and remember the answer; its result."""
        self.messages.append({"role": "user", "content": text})
        prompt = self.prompt(self.messages, key, mode, **options)
        sampling = SamplingParams(temperature=2.0, top_k=30, seed=seed, logit_bias=splits)
        (result,) = self.engine.generate([prompt], limits=limits, sampling=sampling, mode=mode)
        content = self.content(result)
        self.memory.remember(self.messages, content, prompt, result, key=key)
        self.messages.append({"role": "assistant", "content": content})
        self.turns.append((prompt, result))
        return result

    def content(self, result):
        text = AnswerText(self.tokenizer, 0, branches=self.branches)
        return "".join(piece.text for piece in text.finish(result)[0] if piece.kind == "content")


def ids(text):
    """Of plain text and the two ends."""
    made, rest = [], text
    while rest:
        end = next((end for end in (END, OTHER_END) if rest.startswith(end)), None)
        if end:
            made.append(tokenizer().backend.find(end))
            rest = rest.removeprefix(end)
        else:
            plain = rest.partition("<|")[0]
            made += tokenizer().encode(plain)
            rest = rest.removeprefix(plain)
    return made


SHORT, NESTED, BLOCK, PLAIN = Limits(max_new_tokens=30), (14, 24, 28), 2, 16
"""Limits of later turns; seeds whose first answers have nested blocks, blocks, none."""


def continued(prompt, turns, tail):
    """Whether a prompt is that of the last of the turns, its answer, and these tokens."""
    before, result = turns[-1]
    assert list(prompt.tokens) == [*before.tokens, *result.tokens.tolist(), *tail]
    return True


def layout_of(turns):
    """Tokens and layout of a conversation by the language alone, as training lays them out."""
    prompt, result = turns[-1]
    tokens_T = np.array([*prompt.tokens, *result.tokens], np.int32)
    arguments = CODES[tokens_T], TABLES.colon[tokens_T], len(prompt.tokens)
    return tokens_T, lay_out(*arguments, scan_prompt=True, engine_output=True, complete=True)


@pytest.mark.parametrize("seed", NESTED)
def test_a_second_turn_is_what_training_sees_and_prefills_only_what_is_new(seed):
    """With the arithmetic of the hash model, which is exact: tokens, positions and what each token sees."""
    chat = Chat()
    first = chat.say("abc", seed)
    second = chat.say("de", 3, limits=SHORT, splits=NONE)
    prompt, tail = chat.turns[1][0], ids("<|end|>\n<|over|>de<|end|>\n<|over|>")
    assert continued(prompt, chat.turns[:1], tail)
    assert second.found == len(chat.turns[0][0].tokens) + first.new_tokens
    assert len(prompt.tokens) - second.found <= len(tail) + PAGE
    tokens_T, layout = layout_of(chat.turns)
    np.testing.assert_array_equal(layout.position[len(prompt.tokens) :], second.position)
    logits_TV = forward(tokens_T, layout.position, dense_mask(layout), bias())
    sampled_N = np.flatnonzero(~second.written)
    source_N = layout.predecessor[len(prompt.tokens) + sampled_N]
    total_N1 = np.log(np.exp(logits_TV[source_N].astype(np.float64)).sum(axis=1, keepdims=True))
    id_NK = second.logprobs.top_id[sampled_N]
    wanted_NK = np.take_along_axis(logits_TV[source_N], id_NK, axis=1) - total_N1
    np.testing.assert_allclose(second.logprobs.top_unbarred[sampled_N], wanted_NK, atol=2e-5)
    assert len(sampled_N) > 5


def test_many_turns_go_on_from_one_another():
    """Also in other modes; the engine finds each time what the turn before has left."""
    chat = Chat()
    first = chat.say("abc", BLOCK, limits=Limits(max_new_tokens=90, min_block_share=25))
    assert len(first.parent) > 1
    for number, mode in enumerate(("autoregressive", "sequential", "autoregressive")):
        before, result = chat.turns[-1]
        again = chat.say("a", number, mode=mode, limits=Limits(max_new_tokens=14))
        assert continued(chat.turns[-1][0], chat.turns[:-1], ids("<|end|>\n<|over|>a<|end|>\n<|over|>"))
        assert again.found == len(before.tokens) + result.new_tokens
    assert len(chat.memory) == 4
    layout = layout_of(chat.turns)[1]
    np.testing.assert_array_equal(layout.position[-again.new_tokens :], again.position)


def test_earlier_turns_keep_the_suffix_that_they_were_asked_with():
    """And the new one gets its own; a page of the engine would not be found otherwise."""
    chat = Chat()
    chat.say("abc", PLAIN, suffix=None)
    prompt = chat.prompt([*chat.messages, {"role": "user", "content": "de "}], suffix=" .j")
    assert continued(prompt, chat.turns, ids("<|end|>\n<|over|>de .j<|end|>\n<|over|>"))
    suffix = " Think step by step and in parallel before answering."
    assert chat.turns[0][0].tokens == ids(f"<|over|>abc{suffix}<|end|>\n<|over|>")
    alone = chat.prompt([{"role": "user", "content": "a"}], mode="autoregressive", suffix=None)
    assert alone.tokens == ids("<|over|>a Think step by step before answering.<|end|>\n<|over|>")


def test_an_answer_shown_as_a_transcript_is_known_by_its_whole_text():
    chat = Chat(branches="transcript")
    chat.say("abc", BLOCK)
    assert "<Parallel>" in chat.messages[-1]["content"]
    prompt = chat.prompt([*chat.messages, {"role": "user", "content": "a"}])
    assert continued(prompt, chat.turns, ids("<|end|>\n<|over|>a<|end|>\n<|over|>"))
    assert prompt.laid_out


CHANGES = {
    "another key": lambda chat: {"key": "other"},
    "another text": lambda chat: chat.messages[1].update(content=chat.messages[1]["content"] + "a"),
    "another question": lambda chat: chat.messages[0].update(content="abd"),
    "a name": lambda chat: chat.messages[0].update(name="j"),
    "a message before": lambda chat: chat.messages.insert(0, {"role": "system", "content": "b"}),
    "a message less": lambda chat: chat.messages.pop(0),
    "another role": lambda chat: chat.messages[1].update(role="tool"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_the_same_is_the_clients_text(change):
    """In which tags are no tags."""
    chat = Chat(branches="transcript")
    chat.say("abc", BLOCK)
    options = CHANGES[change](chat) or {}
    messages = [*chat.messages, {"role": "user", "content": "a"}]
    prompt = chat.prompt(messages, **(options if "key" in options else {}))
    assert (CODES[np.array(prompt.tokens)] < 0).all()
    assert not prompt.laid_out
    assert prompt.tokens == chat.tokenizer.render_chat(messages, plain_answers=True)


def test_of_an_assistants_message_only_the_text_counts():
    """Clients send back the rest as they please."""
    chat = Chat()
    chat.say("abc", BLOCK)
    answer = {**chat.messages[1], "reasoning": "what they showed", "refusal": None, "tool_calls": []}
    prompt = chat.prompt([{**chat.messages[0], "name": None}, answer, {"role": "user", "content": "a"}])
    assert continued(prompt, chat.turns, ids("<|end|>\n<|over|>a<|end|>\n<|over|>"))


def test_an_answer_that_the_client_got_in_part_is_not_kept():
    """As one that a stop string ended; nor one that failed."""
    chat = Chat()
    prompt, result = chat.prompt([{"role": "user", "content": "abc"}]), chat.say("abc", PLAIN)
    for content, ended in (("  ", result), (chat.content(result), dataclasses.replace(result, reason="failed"))):
        memory = Conversations(chat.tokenizer, TABLES)
        memory.remember(chat.messages[:1], content, prompt, ended, key="k")
        assert len(memory) == 0


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<|over|>{{ m['content'] | trim }}<|end|>\n{% endfor %}<|over|>",
        "{% for m in messages %}<|over|>{{ 'j' if m['role'] == 'assistant' else m['content'] }}{% endfor %}<|over|>",
        "{{ messages | length }}{% for m in messages %}<|over|>{{ m['content'] }}<|end|>\n{% endfor %}<|over|>",
    ],
    ids=["trims", "leaves earlier answers out", "counts messages"],
)
def test_a_template_that_changes_earlier_turns_gets_the_clients_text(template):
    for seed in range(40):
        chat = Chat(template)
        chat.say("abc", seed, mode="autoregressive", limits=SHORT)
        if chat.messages[-1]["content"].strip() != chat.messages[-1]["content"]:
            break
    assert len(chat.memory) == 1
    messages = [*chat.messages, {"role": "user", "content": "a"}]
    assert chat.prompt(messages).tokens == chat.tokenizer.render_chat(messages, plain_answers=True)


def test_what_the_template_says_of_today_must_be_as_it_was():
    chat = Chat("{{ today }}" + TEMPLATE)
    chat.say("abc", PLAIN, template_options={"today": "1.2"})
    messages = [*chat.messages, {"role": "user", "content": "a"}]
    same, other = (chat.prompt(messages, template_options={"today": today}) for today in ("1.2", "1.3"))
    assert continued(same, chat.turns, ids("<|end|>\n<|over|>a<|end|>\n<|over|>"))
    assert other.tokens == chat.tokenizer.render_chat(messages, plain_answers=True, options={"today": "1.3"})


def test_options_of_the_template_cannot_make_control_tokens_or_take_its_names():
    chat = Chat("{{ today }}" + TEMPLATE)
    prompt = chat.prompt([{"role": "user", "content": "a"}], template_options={"today": "<|end|><Path>"})
    assert prompt.tokens == [*tokenizer().encode("<|end|><Path>"), *ids("<|over|>a<|end|>\n<|over|>")]
    with pytest.raises(UserError, match="messages is not free"):
        chat.prompt([{"role": "user", "content": "a"}], template_options={"messages": []})


def test_answers_that_were_used_longest_ago_are_forgotten_first():
    chat = Chat(most=2)

    def known(text):
        messages = [*asked[text], {"role": "user", "content": "d"}]
        return list(chat.prompt(messages).tokens) != chat.tokenizer.render_chat(messages, plain_answers=True)

    asked = {}
    for text in ("a", "b", "c"):
        chat.messages = []
        chat.say(text, BLOCK)
        asked[text] = chat.messages
        assert known("a")  # So "b" is the one that was used longest ago.
    assert [known(text) for text in ("a", "b", "c")] == [True, False, True]
    assert len(chat.memory) == 2


def test_memory_is_bounded_by_tokens():
    chat = Chat(most_tokens=150)
    for number in range(5):
        chat.messages.clear()
        chat.say("abc" + "a" * number, BLOCK)
        assert len(chat.memory) == 1
        assert chat.memory._tokens == len(chat.turns[-1][0].tokens) + chat.turns[-1][1].new_tokens


@pytest.mark.parametrize("messages", [[], [{"role": "user"}], [{"role": "user", "content": ["a"]}], ["a"]])
def test_messages_of_a_wrong_form_are_refused_in_one_line(messages):
    if messages:
        with pytest.raises(UserError, match="message 0"):
            Chat().prompt(messages)
    else:
        assert Chat().prompt(messages).tokens == ids("<|over|>")


LIKELY = dict(zip(range(2, 12), (8.0, 6.0, 7.0, 5.0, 8.0, 8.0, 0.0, 4.0, 0.0, 5.0))) | dict.fromkeys(
    TABLES.eos_ids, -9.0
)
"""The same for a model that likes all tokens alike."""


@functools.cache
def tiny_decoder():
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    config = from_hf({"model_type": "qwen3", "vocab_size": len(CODES), **shape})
    decoder = Decoder(config, rngs=nnx.Rngs(params=3))
    sizes = SIZES | {"logprobs": 20, "max_slots": 512}
    model = DecoderStepModel(decoder, page_size=PAGE)
    return decoder, Engine(model, model.params, with_template(TEMPLATE), EngineConfig(**sizes, pages=32))


@pytest.mark.slow
def test_with_a_decoder_the_logits_of_a_second_turn_are_those_of_training():
    """What the engine found in its pages, laid out by training's own rules: one forward pass over both turns."""
    decoder, engine = tiny_decoder()
    forward_pass, nested = jax.jit(lambda *arrays: decoder(*arrays)), 0
    for seed in range(12):
        engine.reset()
        chat = Chat()
        chat.engine = engine
        chat.say("abc", seed, splits=LIKELY, limits=Limits(max_new_tokens=300, min_block_share=30, max_paths=2))
        nested += layout_of(chat.turns)[1].hide_start.any(axis=1).sum() > 1
        second = chat.say("de", 3, limits=SHORT, splits=NONE)
        prompt = chat.turns[1][0]
        assert second.found == len(chat.turns[0][0].tokens) + chat.turns[0][1].new_tokens
        tokens_T, layout = layout_of(chat.turns)
        start_ET, end_ET = np.zeros((2, 4, len(tokens_T)), np.int32)
        start_ET[: layout.depth], end_ET[: layout.depth] = layout.hide_start, layout.hide_end
        room = 512 - len(tokens_T)
        arrays = (tokens_T, layout.position, start_ET, end_ET)
        arrays = [np.pad(each, [(0, 0)] * (each.ndim - 1) + [(0, room)])[None] for each in arrays]
        logits_TV = np.asarray(forward_pass(*arrays)[0, : len(tokens_T)], np.float64)
        sampled_N = np.flatnonzero(~second.written)
        source_N = layout.predecessor[len(prompt.tokens) + sampled_N]
        total_N1 = np.log(np.exp(logits_TV[source_N]).sum(axis=1, keepdims=True))
        wanted_NK = np.take_along_axis(logits_TV[source_N], second.logprobs.top_id[sampled_N], axis=1) - total_N1
        error = np.abs(second.logprobs.top_unbarred[sampled_N] - wanted_NK).max()
        assert error < 2 * 2e-5 * np.abs(logits_TV).max()
    assert nested >= 2
