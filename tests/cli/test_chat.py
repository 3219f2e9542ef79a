"""`mvjax chat`: the loop around a conversation, with and without a terminal, on answers that are written down."""

import io
import os
import signal

import pytest
from rich.console import Console
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli import chat
from mvjax.cli.main import main
from mvjax.engine import Limits, SamplingParams
from mvjax.errors import UserError
from mvjax.serving.branches import BranchEvent
from mvjax.serving.talk import Said


class Talk:
    """Answers in turn: a text, or something to do."""

    def __init__(self, *answers):
        self.answers, self.asked, self.interrupted, self.orderly = list(answers), [], 0, True

    def answer(self, messages, on_events):
        self.asked.append([(message["role"], message["content"]) for message in messages])
        answer = self.answers.pop(0)
        if callable(answer):
            answer = answer(on_events)
        on_events([BranchEvent("", "text", answer, 3)])
        return Said(answer, "cancelled" if self.interrupted else "stop", 5, 4, 1.25)

    def interrupt(self):
        self.interrupted += 1
        return self.orderly


def typing(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_lines_are_messages_of_one_conversation(monkeypatch, capsys):
    typing(monkeypatch, b"first\n\n  second  \n/new\nthird\n/exit\nnever\n")
    talk = Talk("eins", "zwei", "drei")
    chat.converse(talk, "be brief")
    start = ("system", "be brief")
    assert talk.asked == [
        [start, ("user", "first")],
        [start, ("user", "first"), ("assistant", "eins"), ("user", "second")],
        [start, ("user", "third")],
    ]
    output, errors = capsys.readouterr()
    assert output == "eins\nzwei\ndrei\n"  # The answers alone: others may read them.
    assert errors.splitlines() == ["(5 tokens, critical path 4, # parallel 1.25)"] * 3


def test_what_cannot_be_answered_is_a_line_and_the_conversation_goes_on(monkeypatch, capsys):
    def refuse(on_events):
        raise UserError("too long")

    def broken_off(on_events):
        raise KeyboardInterrupt

    typing(monkeypatch, b"one\ntwo\nthree\n")
    talk = Talk(refuse, broken_off, "drei")
    chat.converse(talk, None)
    assert talk.asked[-1] == [("user", "three")]
    output, errors = capsys.readouterr()
    assert output == "drei\n"
    assert errors.splitlines()[0] == "error: too long"
    assert "broken off" in errors


@pytest.mark.parametrize("orderly", [True, False])
def test_ctrl_c_ends_an_answer_and_not_the_program(monkeypatch, capsys, orderly):
    def interrupted(on_events):
        os.kill(os.getpid(), signal.SIGINT)
        return "half"

    typing(monkeypatch, b"one\ntwo\n")
    talk = Talk(interrupted, "zwei")
    talk.orderly = orderly
    before = signal.getsignal(signal.SIGINT)
    chat.converse(talk, None)
    assert signal.getsignal(signal.SIGINT) is before
    assert talk.interrupted == 1
    output, errors = capsys.readouterr()
    assert output == ("half\nzwei\n" if orderly else "zwei\n")
    assert ("broken off" in errors) != orderly


def test_a_second_ctrl_c_breaks_an_answer_off(monkeypatch, capsys):
    def interrupted(on_events):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return "half"

    typing(monkeypatch, b"one\n")
    chat.converse(Talk(interrupted), None)
    output, errors = capsys.readouterr()
    assert (output, "broken off" in errors) == ("", True)


def test_on_a_terminal_branches_are_drawn(monkeypatch, capsys):
    """And Ctrl-C at the prompt gives a line up; Ctrl-D ends."""
    lines = iter(["question", KeyboardInterrupt(), EOFError()])

    def typed(prompt):
        line = next(lines)
        if isinstance(line, str):
            return line
        raise line

    def branches(on_events):
        on_events([BranchEvent("", "text", "<Parallel>\n<Goal>\n<Outline>\n1: a\n</Outline>\n</Goal>\n", 9)])
        on_events([BranchEvent("", "fork", "", 9), BranchEvent("1.1", "start", "", 10)])
        on_events([BranchEvent("1.1", "text", "<Path>\n1: inside\n", 14)])
        return "after"

    drawn = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=drawn, force_terminal=True, width=80))
    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    chat.converse(Talk(branches), None)
    assert "path 1" in drawn.getvalue()
    assert "inside" in drawn.getvalue()
    assert "Ctrl-D ends" in capsys.readouterr().err


def test_only_what_differs_is_asked_of_a_server():
    assert chat.changed(Limits()) == chat.changed(SamplingParams()) == {}
    assert chat.changed(Limits(max_paths=3)) == {"max_paths": 3}


def test_mistakes_are_one_line(monkeypatch, capsys):
    typing(monkeypatch, b"abc\xff\n")
    with pytest.raises(UserError, match=r"not UTF-8 text \(byte 3\)"):
        chat.converse(Talk(), None)
    for words in (["--url", "http://127.0.0.1:9"], ["--temperature", "-1"]):
        assert main(["chat", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


@pytest.mark.slow
def test_a_model_in_this_process_answers_two_turns(tmp_path, monkeypatch, capsys):
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=512)
    model = write_gguf_model(tmp_path / "toy.gguf", config, tiny_tensors(config))
    typing(monkeypatch, "What is 2·3?\nAnd 1+1?\n".encode())
    words = ["--model", str(model), "--max-branches", "1", "--max-length", "256", "--max-new-tokens", "20"]
    assert main(["chat", *words, "--mode", "parallel", "--temperature", "1"]) == 0
    errors = capsys.readouterr().err
    assert errors.startswith("toy.gguf. Enter sends")
    assert errors.count("critical path") == 2
