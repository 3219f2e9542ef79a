"""`mvjax generate` and `mvjax evaluate` on a toy model: answers, measures, what is refused."""

import dataclasses
import io
import json
import types

import numpy as np
import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli import generate
from mvjax.cli.main import main
from mvjax.engine import Engine, LogProbs
from mvjax.language import tags
from mvjax.models import load_checkpoint, save_checkpoint
from mvjax.tokenizers import Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A GGUF file of a model with two layers and a vocabulary of bytes."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    return write_gguf_model(tmp_path_factory.mktemp("toy") / "toy.gguf", config, tiny_tensors(config))


def run(capsys, *words):
    """Exit status, standard output and the last line of the error stream."""
    status = main([str(word) for word in words])
    output, error = capsys.readouterr()
    return status, output, error.splitlines()[-1] if error else ""


FEW = ("--max-branches", 1, "--max-new-tokens", 40)


def test_json_holds_answer_and_measures(toy, capsys):
    words = ("generate", "What is 1+1?", "--model", toy, *FEW, "--temperature", 1, "--compare", "--json")
    words += ("--seed", -3, "--ignore-eos", "--logit-bias", 70, "-1.5", 71, 2, "--stop-token-ids", 72, 73)
    status, output, _ = run(capsys, *words)
    record = json.loads(output)
    assert status == 0
    assert record["prompt"] == "What is 1+1?"
    assert 0 < record["critical_path"] <= record["tokens"] <= 40 + 8
    assert record["same_tokens"] == "yes"
    assert record["finish"] in ("stop", "tokens", "positions")
    assert json.loads(run(capsys, *words)[1])["response"] == record["response"]


@pytest.mark.slow
def test_json_holds_log_probabilities(toy, capsys):
    words = ("generate", "What is 1+1?", "--model", toy, *FEW, "--temperature", 1, "--json", "--logprobs", 2)
    status, output, _ = run(capsys, *words)
    record = json.loads(output)
    sampled = [one for one in record["logprobs"] if one is not None]
    assert status == 0
    assert len(record["logprobs"]) == record["tokens"] >= len(sampled) > 0
    assert all(one["logprob_unbarred"] <= one["logprob"] <= 0 for one in sampled)
    assert all(len(one["top"]) == 2 for one in sampled)


def test_log_probabilities_in_json():
    """null: barred, and tokens that the interpreter wrote."""
    nan, inf = np.nan, np.inf
    log_T, top_TK, unbarred_TK = [-0.5, nan], [[-0.5, -inf], [nan, nan]], [[-1.5, -2], [nan, nan]]
    log_T, top_TK, unbarred_TK = (np.array(log, np.float32) for log in (log_T, top_TK, unbarred_TK))
    logprobs = LogProbs(log_T, log_T - 1, np.array([[7, 3], [-1, -1]], np.int32), top_TK, unbarred_TK)
    result = types.SimpleNamespace(tokens=np.array([7, 8]), written=np.array([False, True]), logprobs=logprobs)
    chosen = {"token": 7, "text": "[7]", "logprob": -0.5, "logprob_unbarred": -1.5}
    barred = {"token": 3, "text": "[3]", "logprob": None, "logprob_unbarred": -2.0}

    def decode(ids):
        assert min(ids) >= 0, "a tokenizer refuses ids that are none"
        return str(ids)

    shown = generate.logprobs_of(result, types.SimpleNamespace(decode=decode))
    assert shown == [{**chosen, "top": [chosen, barred]}, None]


def test_piped_answers_are_the_plain_transcript(toy, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Was ist 2·3?".encode())))
    status, output, error = run(capsys, "generate", "--model", toy, "--mode", "autoregressive", *FEW)
    assert status == 0
    assert not any(tag in output for tag in tags.TAGS)
    assert "critical path: " in error
    assert "# parallel: 1.0" in error


def test_svg_is_the_answer(toy, capsys, tmp_path):
    picture = tmp_path / "tree.svg"
    words = ("generate", "What is 1+1?", "--model", toy, *FEW, "--temperature", 1, "--svg", picture)
    status, _, error = run(capsys, *words)
    assert (status, "the tree of" in error) == (0, True)
    assert "# parallel" in picture.read_text().replace("&#160;", " ")


def test_evaluate_writes_totals_and_goes_on(toy, capsys, tmp_path):
    data = tmp_path / "questions.jsonl"
    lines = [json.dumps({"question": f"What is {n}+1?", "answer": f"It is.\n#### {n + 1}"}) for n in range(2)]
    data.write_text("\n".join(lines) + "\n")
    words = ("evaluate", data, "--model", toy, *FEW, "--requests", 1, "--output", tmp_path / "out", "--json")
    status, output, _ = run(capsys, *words, "--limit", 1)
    assert status == 0
    assert json.loads(output)["problems"] == 1
    status, output, _ = run(capsys, *words)
    assert status == 0
    totals = json.loads(output)
    assert totals["problems"] == 2
    assert totals == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert len((tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_evaluate_checks_every_transcript(toy, capsys, tmp_path):
    data = tmp_path / "questions.jsonl"
    questions = [{"question": f"What is 1+{n}?", "answer": f"#### {n + 1}"} for n in range(2)]
    data.write_text("".join(json.dumps(question) + "\n" for question in questions))
    words = ("evaluate", data, "--model", toy, *FEW, "--check", "--output", tmp_path / "out", "--json")
    for limit in (1, 2):  # The second run goes on where the first stopped, with what it has found.
        status, output, _ = run(capsys, *words, "--limit", limit)
        totals = json.loads(output)
        assert status == 0
        assert totals["transcripts checked"] == limit
        assert totals["contradictions"] == 0
        assert totals["largest error of a logit"] < 1e-5


@pytest.mark.parametrize("mode", ["parallel", "sequential", "autoregressive"])
def test_the_prompt_ends_with_the_suffix_of_its_mode(toy, capsys, monkeypatch, mode):
    """arXiv 2506.09991, appendix: only the parallel modes are asked to think in parallel."""
    asked = []
    render = Tokenizer.render_chat
    monkeypatch.setattr(
        Tokenizer, "render_chat", lambda self, messages, **k: asked.append(messages) or render(self, messages, **k)
    )
    words = "--model", toy, *FEW, "--mode", mode, "--json"
    assert run(capsys, "generate", "What is 1+1? ", *words)[0] == 0
    (messages,) = asked
    suffix = (
        " Think step by step before answering."
        if mode == "autoregressive"
        else (" Think step by step and in parallel before answering.")
    )
    assert messages[-1] == {"role": "user", "content": "What is 1+1?" + suffix}


def test_max_positions_limits_the_critical_path(toy, capsys):
    words = ("generate", "What is 1+1?", "--model", toy, "--max-branches", 1, "--temperature", 1, "--json")
    for positions in (9, 25):
        record = json.loads(run(capsys, *words, "--max-new-tokens", 100, "--max-positions", positions)[1])
        assert 0 < record["critical_path"] <= positions
        assert record["finish"] == "positions"


def test_speed_up_is_the_ratio_of_both_times(toy, capsys, monkeypatch):
    """`--compare` generates the same again path after path; seconds are those that the results name."""
    generate, modes = Engine.generate, []

    def timed(engine, prompts, mode="parallel", **settings):
        (result,) = generate(engine, prompts, mode=mode, **settings)
        modes.append(mode)
        seconds = {"parallel": 2.0, "sequential": 5.0}[mode]
        return [dataclasses.replace(result, timings=dataclasses.replace(result.timings, decode=seconds))]

    monkeypatch.setattr(Engine, "generate", timed)
    words = ("generate", "hi", "--model", toy, *FEW, "--compare", "--json")
    record = json.loads(run(capsys, *words)[1])
    assert modes == ["parallel", "sequential"]
    assert (record["seconds"], record["seconds,_path_after_path"], record["speed-up"]) == (2.0, 5.0, 2.5)
    assert record["same_tokens"] == "yes"


def test_autoregressive_answers_may_be_short(toy, capsys):
    words = ("generate", "hi", "--model", toy, "--mode", "autoregressive", "--json")
    for count in (1, 8):
        record = json.loads(run(capsys, *words, "--max-new-tokens", count)[1])
        assert record["tokens"] <= count
        assert record["tokens"] == count or record["finish"] == "stop"


@pytest.mark.parametrize("verb", ["generate", "evaluate"])
@pytest.mark.parametrize("reason", ["failed", "not finite"])
def test_an_answer_that_is_none_is_status_1_and_one_line(toy, capsys, monkeypatch, tmp_path, verb, reason):
    """The first of two requests fails; the second is answered as usual."""
    step = Engine.step

    def spoilt(engine, on_tokens=None):
        results = step(engine, on_tokens)
        error = RuntimeError("out of\nmemory") if reason == "failed" else None
        return [
            dataclasses.replace(result, reason=reason, error=error) if result.prompt_length % 2 else result
            for result in results
        ]

    monkeypatch.setattr(Engine, "step", spoilt)
    lengths = [len(load_tokenizer(toy).encode(text)) for text in ("ab", "abc")]
    assert lengths[0] % 2 != lengths[1] % 2
    words = ("--model", toy, *FEW)
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps({"question": text, "answer": "1"}) + "\n" for text in ("ab", "abc")))
    if verb == "generate":
        status, output, error = run(capsys, verb, "ab", "abc", *words, "--json")
        assert len(output.splitlines()) == 1
    else:
        status, output, error = run(capsys, verb, data, *words, "--requests", 1, "--json", "--output", tmp_path / "out")
        assert json.loads(output)["problems"] == 2
        assert len((tmp_path / "out" / "outcomes.jsonl").read_text().splitlines()) == 1
    assert status == 1
    assert error.startswith("error: ")
    assert ("RuntimeError: out of memory" if reason == "failed" else "not finite numbers") in error


def test_the_missing_default_model_names_the_way_to_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words in (("generate", "hi"), ("evaluate", tmp_path / "data.jsonl")):
        (tmp_path / "data.jsonl").write_text('{"question": "1+1", "answer": "2"}\n')
        status, _, error = run(capsys, *words)
        assert status == 2
        assert "make model" in error


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-new-tokens", 10**400),
        ("--max-new-tokens", 2**30),
        ("--max-new-tokens", 8),
        ("--max-positions", 2**31),
        ("--max-path-tokens", 0),
        ("--max-paths", 17),
        ("--max-depth", -1),
        ("--min-block-share", 2**31),
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--top-k", 2**31),
        ("--top-p", "nan"),
        ("--seed", 2**63),
        ("--min-tokens", -1),
    ],
)
@pytest.mark.parametrize("verb", ["generate", "evaluate"])
def test_settings_out_of_range_are_one_line(toy, capsys, tmp_path, verb, option, value):
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "1+1", "answer": "2"}\n')
    status, _, error = run(capsys, verb, "hi" if verb == "generate" else data, "--model", toy, option, value)
    assert status == 2
    assert error.startswith(f"error: {option[2:].replace('-', '_')} = ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("generate", "hi", "--model", "nothing.gguf"), "nothing.gguf"),
        (("generate", "--model", "TOY"), "standard input is not UTF-8 text (byte 3)"),
        (("generate", "hi " * 2000, "--model", "TOY"), "shorten it"),
        (("generate", "hi", "--model", "TOY", "--temperature", "-1"), "temperature"),
        (("generate", "hi", "--model", "TOY", "--max-branches", "0"), "max_branches"),
        (("generate", "hi", "--model", "TOY", "--demo"), "adapter"),
        (("generate", "hi", "--model", "TOY", "--tensor-parallel", "3"), "shared by 3 devices; 1, 2, 4 can be"),
        (("generate", "hi", "--model", "TOY", "--svg", "tree.png"), ".svg"),
        (("generate", "hi", "ho", "--model", "TOY", "--svg", "tree.svg"), "one prompt"),
        (("generate", "hi", "--model", "TOY", "--logprobs", "2"), "--json"),
        (("generate", "hi", "--model", "TOY", "--json", "--logprobs", "21"), "logprobs = 21"),
        (("generate", "hi", "--model", "TOY", "--logit-bias", "5", "101"), "logit_bias = {5: 101.0}"),
        (("generate", "hi", "--model", "TOY", "--logit-bias", "99999", "1"), "outside the vocabulary"),
        (("generate", "hi", "--model", "TOY", "--stop-token-ids", *map(str, range(9))), "give 8 at most"),
        (("generate", "hi", "--model", "TOY", "--min-tokens", "2000"), "max_new_tokens, which is 1024"),
        (("evaluate", "none.jsonl", "--model", "TOY"), "none.jsonl: there is no such file"),
    ],
)
def test_bad_input_is_one_line(toy, capsys, monkeypatch, words, complaint):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"abc\xff")))
    status = main([str(toy) if word == "TOY" else word for word in words])
    error = capsys.readouterr().err
    assert status == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert complaint in error


@pytest.mark.slow
def test_a_model_with_a_nan_and_its_tokenizer_elsewhere_ends_as_not_finite(toy, capsys, tmp_path):
    checkpoint = load_checkpoint(toy)
    tensors = {name: np.array(tensor) for name, tensor in checkpoint.tensors.items()}
    tensors["model.layers.0.mlp.up_proj.weight"][3, 5] = np.nan
    save_checkpoint(tmp_path / "m", dataclasses.replace(checkpoint, tensors=tensors))
    words = ("generate", "What is 1+1?", "--model", tmp_path / "m", *FEW)
    status, _, error = run(capsys, *words)
    assert (status, "give --tokenizer" in error) == (2, True)
    status, output, error = run(capsys, *words, "--tokenizer", toy)
    assert (status, output) == (1, "")
    assert "not finite numbers; check its weights" in error
