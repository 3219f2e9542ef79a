"""Asking again, and side by side."""

import pytest

from mvjax.curator.production import Call, Reply
from mvjax.curator.prompt_files import load
from mvjax.curator.stages.asking import Asking, EndpointFailed, GivenUp, Log, plainly, text_of, together
from mvjax.curator.stages.replies import Faulty, faulty


def asking(retries=2):
    return Asking(load(), retries, 100, Log())


def talk(*replies, retries=2, accept=None):
    """Drive `until`: its result and the calls that it made."""

    def read(text):
        if text != "good":
            raise faulty("bad", f"it is {text}")
        return text

    ask = asking(retries)
    process, calls, sent = ask.until(ask.first("tree", "", "Do it.", {}), accept or plainly(read)), [], None
    waiting = iter(replies)
    try:
        while True:
            calls += process.send(sent)
            sent = (next(waiting),)
    except StopIteration as end:
        return end.value, calls, ask.log
    except Faulty as error:
        return error, calls, ask.log


def test_what_was_wrong_goes_back():
    result, calls, log = talk(Reply("poor"), Reply("poorer"), Reply("good"))
    assert result == "good"
    assert [call.why for call in calls] == ["", "it is poor", "it is poorer"]
    assert [len(call.messages) for call in calls] == [2, 4, 6]
    assert calls[1].messages[:2] == calls[0].messages
    assert calls[1].messages[2] == {"role": "assistant", "content": "poor"}
    assert "- it is poor\n" in calls[1].messages[3]["content"]
    assert [(finding.check, finding.stage) for finding in log.findings] == [("bad", "tree")] * 2


def test_tries_come_to_an_end():
    result, calls, _ = talk(*[Reply("poor")] * 9, retries=1)
    assert isinstance(result, Faulty)
    assert len(calls) == 2
    assert result.findings[0].stage == "tree"


@pytest.mark.parametrize(("finish", "check"), [("length", "cut reply"), ("refused", "refused")])
def test_replies_that_are_none(finish, check):
    _, calls, log = talk(Reply("x" * 9000, finish), Reply("", finish), Reply("good"))
    assert [finding.check for finding in log.findings] == [check] * 2
    assert all(message["content"] for message in calls[2].messages)
    shown = calls[1].messages[2]["content"]
    assert len(shown) == (2006 if finish == "length" else 9000)


def test_an_endpoint_that_failed_ends_it():
    with pytest.raises(EndpointFailed, match="503 busy"):
        text_of(Reply("503\nbusy", "failed"))
    with pytest.raises(EndpointFailed, match="503"):
        talk(Reply("503", "failed"))


def test_giving_up_is_not_asked_again():
    def accept(text):
        raise GivenUp(faulty("judge", "silent").findings)
        yield

    result, calls, log = talk(Reply("good"), accept=accept)
    assert isinstance(result, GivenUp)
    assert len(calls) == 1
    assert log.findings == []


def test_talks_side_by_side():
    def steps(name, count):
        said = []
        for number in range(count):
            batch = tuple(Call(name, str(k), ()) for k in range(number % 2 + 1))
            said += [reply.text for reply in (yield batch)]
        return said

    def driven():
        process, sent = together([steps("a", 2), steps("b", 0), steps("c", 3)]), None
        while True:
            try:
                calls = process.send(sent)
            except StopIteration as end:
                return end.value
            rounds.append([call.stage + call.where for call in calls])
            sent = tuple(Reply(call.stage + call.where) for call in calls)

    rounds: list[list[str]] = []
    assert driven() == [["a0", "a0", "a1"], [], ["c0", "c0", "c1", "c0"]]
    assert rounds == [["a0", "c0"], ["a0", "a1", "c0", "c1"], ["c0"]]
