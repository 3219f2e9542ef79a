"""`mvjax generate` and `mvjax evaluate` on a toy model: answers, measures, what is refused."""

import io
import json

import pytest
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli.main import main
from mvjax.language import tags


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
    status, output, _ = run(capsys, *words)
    record = json.loads(output)
    assert status == 0
    assert record["prompt"] == "What is 1+1?"
    assert 0 < record["critical_path"] <= record["tokens"] <= 40 + 8
    assert record["same_tokens"] == "yes"
    assert record["finish"] in ("stop", "tokens", "positions")
    assert json.loads(run(capsys, *words)[1])["response"] == record["response"]


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


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("generate", "hi", "--model", "nothing.gguf"), "nothing.gguf"),
        (("generate", "--model", "TOY"), "standard input is not UTF-8 text (byte 3)"),
        (("generate", "hi " * 2000, "--model", "TOY"), "shorten it"),
        (("generate", "hi", "--model", "TOY", "--temperature", "-1"), "temperature"),
        (("generate", "hi", "--model", "TOY", "--max-branches", "0"), "max_branches"),
        (("generate", "hi", "--model", "TOY", "--demo"), "adapter"),
        (("generate", "hi", "--model", "TOY", "--svg", "tree.png"), ".svg"),
        (("generate", "hi", "ho", "--model", "TOY", "--svg", "tree.svg"), "one prompt"),
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
