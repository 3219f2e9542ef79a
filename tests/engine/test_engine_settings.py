"""What callers may set: types, ranges, prompts as text. Nothing here compiles a program."""

import dataclasses
import types

import numpy as np
import pytest
from hash_model import HashModel
from random_requests import TABLES, VOCABULARY

from mvjax.engine import Engine, EngineConfig, Limits, Prompt, SamplingParams
from mvjax.engine.limits import UNLIMITED
from mvjax.errors import UserError

HUGE = 10**400
NO_INTEGERS = [40.5, "40", HUGE, -HUGE, True, None, float("nan"), [40], np.float32(40), 10**5000]
NO_NUMBERS = ["1", HUGE, True, None, float("nan"), float("inf"), -0.5, [1.0], np.float32("nan")]


@pytest.fixture(scope="module")
def engine():
    return Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(VOCABULARY), TABLES)


def refused(name, call):
    """One line that names the setting and what it is."""
    with pytest.raises(UserError) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"{name} = ")
    assert " must be " in text
    assert "\n" not in text
    assert len(text) < 250


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Limits)])
def test_limits_are_whole_numbers_of_32_bits(engine, name):
    optional = name in ("max_positions", "max_path_tokens")
    for value in [*NO_INTEGERS, 2**31, -1]:
        if value is not None or not optional:
            limits = dataclasses.replace(Limits(), **{name: value})
            refused(name, lambda limits=limits: engine.check([1], limits))
    engine.check([1], dataclasses.replace(Limits(), **{name: np.int64(2)}), mode="autoregressive")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("max_new_tokens", 9, 30_000),
        ("max_positions", 9, 2**31 - 1),
        ("max_path_tokens", 1, 2**31 - 1),
        ("max_paths", 1, 16),
        ("max_depth", 0, 3),
        ("min_block_share", 0, 2**31 - 1),
    ],
)
def test_limits_may_be_anything_in_their_range(engine, name, low, high):
    for value in (low, high):
        engine.check([1], dataclasses.replace(Limits(), **{name: value}))
    for value in (low - 1, UNLIMITED if name == "max_new_tokens" else high + 1):
        with pytest.raises(UserError, match=f"^{name} = "):
            engine.check([1], dataclasses.replace(Limits(), **{name: value}))


def test_nothing_is_reserved_where_nothing_can_be_open(engine):
    for mode, least in (("autoregressive", 1), ("parallel", 9), ("sequential", 9)):
        for name in ("max_new_tokens", "max_positions"):
            engine.check([1], Limits(**{name: least}), mode=mode)
            with pytest.raises(UserError, match=f"{name} = {least - 1} must be a whole number, {least} or more"):
                engine.check([1], Limits(**{name: least - 1}), mode=mode)


WHOLE = ("top_k", "seed", "min_tokens")


@pytest.mark.parametrize("name", ["temperature", "top_p", "min_p", *WHOLE])
def test_sampling_parameters_are_numbers(engine, name):
    for value in [*NO_INTEGERS, *([] if name == "seed" else [-1])] if name in WHOLE else NO_NUMBERS:
        sampling = SamplingParams(**{name: value})
        refused(name, lambda sampling=sampling: engine.check([1], Limits(), sampling))
    for value in (1, np.int32(1), *(() if name in WHOLE else (1.0, np.float64(0.5)))):
        engine.check([1], Limits(), SamplingParams(**{name: value}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1e-9},
        {"top_p": 0},
        {"top_p": 1.001},
        {"seed": 2**63},
        {"seed": -(2**63) - 1},
        {"top_k": 2**31},
        {"logit_bias": {1: 100.5}},
        {"logit_bias": {1: float("nan")}},
        {"logit_bias": {1: HUGE, 2: 10**5000}},
        {"logit_bias": {-1: 1.0}},
        {"logit_bias": {"1": 1.0}},
        {"logit_bias": [(1, 1.0)]},
        {"stop_token_ids": (-1,)},
        {"stop_token_ids": (1.5,)},
        {"stop_token_ids": [1]},
        {"stop_token_ids": 1},
        {"ignore_eos": 1},
    ],
)
def test_sampling_parameters_out_of_range(wrong):
    refused(next(iter(wrong)), lambda: SamplingParams(**wrong).validate())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"logit_bias": dict.fromkeys(range(20, 85), 1.0)}, "logit_bias names 65 tokens; give 64 at most"),
        ({"stop_token_ids": tuple(range(20, 29))}, "stop_token_ids names 9 tokens; give 8 at most"),
        ({"logit_bias": {VOCABULARY: 1.0}}, f"logit_bias: token {VOCABULARY} is outside the vocabulary of 44"),
        ({"stop_token_ids": (20, VOCABULARY)}, f"stop_token_ids: token {VOCABULARY} is outside the vocabulary of 44"),
        ({"stop_token_ids": (20, 3)}, "stop_token_ids: token 3 is a control tag, which cannot stop"),
        ({"min_tokens": 31}, "min_tokens = 31 must be at most max_new_tokens, which is 30"),
    ],
)
def test_wishes_for_single_tokens_must_fit(engine, wrong, message):
    with pytest.raises(UserError, match=message) as error:
        engine.check([1], Limits(max_new_tokens=30), SamplingParams(**wrong))
    assert "\n" not in str(error.value)


def test_wishes_for_single_tokens_up_to_their_limits(engine):
    tokens = tuple(range(20, 28))
    engine.check(
        [1],
        Limits(max_new_tokens=30),
        SamplingParams(
            logit_bias={np.int32(token): -100 for token in range(VOCABULARY)},
            stop_token_ids=(*tokens, *tokens),  # A token counts once.
            min_tokens=30,
            seed=np.int64(-1),
        ),
    )


def test_sampling_parameters_have_names():
    with pytest.raises(TypeError):
        SamplingParams(1.0)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(EngineConfig)])
def test_sizes_are_whole_numbers(name):
    several = name in ("row_counts", "prefill_chunks")
    for value in [*NO_INTEGERS, 0, 2**31]:
        if (name in ("pages", "max_queue") and value is None) or (name == "logprobs" and value in (None, 0)):
            continue
        if name == "share_pages" and value is True:
            continue
        if not several:
            refused(name, lambda value=value: EngineConfig(**{name: value}))
        elif value != [40]:
            refused(name, lambda value=value: EngineConfig(**{name: value}))
            refused(name, lambda value=value: EngineConfig(**{name: (value,)}))
    for value in ((4, 2), (2, 2), ()) if several else ():
        refused(name, lambda value=value: EngineConfig(**{name: value}))


@pytest.mark.parametrize(
    "prompt",
    [
        [1.5],
        ["a"],
        [HUGE],
        [True, False],
        [[1], [2]],
        [-1],
        Prompt([1, 2], positions=np.array([0.0, 1.5])),
        Prompt([1, 2], positions=np.array([0, 2**31])),
        Prompt([1, 2], positions=np.array([0, UNLIMITED])),
        Prompt([1], hide_start=np.zeros((1, 1)), hide_end=np.zeros((1, 1))),
        Prompt([1], hide_start=np.full((1, 1), -1), hide_end=np.zeros((1, 1), int)),
    ],
)
def test_prompts_are_whole_numbers(engine, prompt):
    with pytest.raises(UserError, match=r"^prompt 0[ :]"):
        engine.check(prompt, Limits())


def test_the_largest_position_still_fits_the_device(engine):
    """The position that a request may reach is an int32."""
    request = engine._request(
        Prompt([1, 2], positions=np.array([0, UNLIMITED - 2])),
        Limits(max_positions=2**31 - 1),
        SamplingParams(),
        "parallel",
        0,
    )
    assert request.root().max_pos == 2**31 - 1


def test_a_prompt_may_be_text():
    """It is put into the tokenizer's chat template, with the suffix of its mode."""
    asked = []

    def render_chat(messages):
        asked.append(messages)
        return [1, 2, 3]

    tokenizer = types.SimpleNamespace(tables=lambda: TABLES, render_chat=render_chat)
    engine = Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(VOCABULARY), tokenizer)
    engine.check("What is 1+1?", Limits())
    engine.check("What is 1+1?", Limits(), mode="autoregressive")
    parallel, plain = (messages[0]["content"] for messages in asked)
    assert parallel == "What is 1+1? Think step by step and in parallel before answering."
    assert plain == "What is 1+1? Think step by step before answering."
    with pytest.raises(UserError, match="without a tokenizer"):
        Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(VOCABULARY), TABLES).check("hi", Limits())


def test_the_last_position_that_the_model_knows_may_be_used():
    model = HashModel(np.zeros(VOCABULARY))
    model.max_position = 100
    engine = Engine(model, model.params, TABLES)
    engine.check([1] * 50, Limits(max_new_tokens=50))
    for limits in (Limits(max_new_tokens=51), Limits(max_new_tokens=80, max_positions=60)):
        with pytest.raises(UserError, match="beyond the model's 100"):
            engine.check([1] * 50, limits)
    engine.check([1] * 50, Limits(max_new_tokens=80, max_positions=50))


def test_models_and_vocabularies_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="tokenizer has 44 tokens but the model only 43"):
        Engine(HashModel(np.zeros(VOCABULARY - 1)), np.zeros(1), TABLES)
    with pytest.raises(UserError, match="end-of-text token 3"):
        Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(1), dataclasses.replace(TABLES, eos_ids=(3,)))
    untagged = dataclasses.replace(TABLES, codes=np.full(VOCABULARY, -1, np.int8))
    with pytest.raises(UserError, match="no control tags"):
        Engine(HashModel(np.zeros(VOCABULARY)), np.zeros(1), untagged).generate([[1]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_branches": 33},
        {"max_branches": 0},
        {"requests": 0},
        {"max_paths": 65},
        {"row_counts": (4, 2)},
        {"prefill_chunks": ()},
    ],
)
def test_bad_sizes_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        EngineConfig(**wrong)
