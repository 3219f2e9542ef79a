"""What ends a run at once: a wrong key or model, nobody there, options that make no sense."""

import sys

import pytest
from chat import CALL, ask, call, echo, gone, preflight, talk
from scripted_endpoint import serve

from mvjax.curator.endpoint.client import AWAY, REFUSED, ChatClient, Endpoint
from mvjax.errors import UserError


def test_a_wrong_key_ends_the_run(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "wrong")
    monkeypatch.delenv("NO_KEY", raising=False)
    with serve(echo, key="right") as endpoint:
        with pytest.raises(UserError, match=r"incorrect API key.*SOME_KEY is not accepted"):
            ask(endpoint, CALL, key_name="SOME_KEY")
        for act in (lambda: ask(endpoint, CALL, key_name="NO_KEY"), lambda: preflight(endpoint.url, key_name="NO_KEY")):
            with pytest.raises(UserError, match="NO_KEY is not set"):
                act()
        monkeypatch.setenv("SOME_KEY", "right\n")
        preflight(endpoint.url, key_name="SOME_KEY")
    monkeypatch.setenv("SOME_KEY", "schlüssel")
    with pytest.raises(UserError, match="SOME_KEY: this is no key"):
        preflight(endpoint.url, key_name="SOME_KEY")
    with serve(echo) as endpoint:  # a server of one's own
        assert ask(endpoint, CALL, key_name="NO_KEY")[0].finish == "stop"


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (["404 model"], "--model scripted: .* the model does not exist"),
        (["400 model"], "--model scripted: .* unknown model"),
        (["404"] * 3, "--base-url .*no chat endpoint"),
        (["405"], "--base-url .*no chat endpoint"),
        (["403"], "the key in"),
        (["402"], "paid for"),
        (["quota"], "current quota.*paid for"),
        (["temperature"] * 3, "does not take the calls.*unsupported value"),
    ],
)
def test_what_no_call_can_get_past_ends_the_run(script, said):
    with serve(echo, script=script) as endpoint, pytest.raises(UserError, match=said):
        ask(endpoint, CALL, temperature=3.0)
    assert len(endpoint.requests) == len(script)


def test_an_endpoint_that_refuses_all_calls_ends_the_run():
    with serve(echo, script=["422"] * 100) as endpoint, pytest.raises(UserError, match="does not take the calls"):
        ask(endpoint, *[call(schema=False)] * 100)
    assert len(endpoint.requests) == REFUSED
    with serve(echo, script=["ok", *["422"] * 20]) as endpoint:
        replies = ask(endpoint, *[call(schema=False)] * 21)
    assert [reply.finish for reply in replies] == ["stop", *["refused"] * 20]


def test_a_missing_route_in_the_middle_of_a_run_may_come_back():
    with serve(echo, script=["ok", "404", "ok"]) as endpoint:
        replies = ask(endpoint, CALL, call(schema=False))
    assert [reply.finish for reply in replies] == ["stop", "stop"]


def test_preflight_knows_the_models():
    with serve(echo) as endpoint:
        preflight(endpoint.url)
        with pytest.raises(UserError, match=r"--model scripts: .* no such model; there are scripted$"):
            preflight(endpoint.url, model="scripts")
        assert endpoint.requests == []
    with serve(echo, model="") as endpoint:
        preflight(endpoint.url)  # lists no models
    with serve(echo, model="models/some") as endpoint:
        preflight(endpoint.url, model="some")


def test_an_endpoint_that_is_not_there_ends_the_run_at_once():
    url = gone()
    with pytest.raises(UserError, match="nobody answers there"):
        preflight(url)
    with pytest.raises(UserError, match="nobody answers there"):
        talk(url, lambda client: client.complete(CALL))
    with pytest.raises(UserError, match="nobody answers there"):
        preflight("http://no-such-host.invalid/v1")


@pytest.mark.parametrize(("tries", "failed"), [(8, 0), (3, 2)])
def test_an_endpoint_that_goes_away_ends_the_run_and_not_its_records(tries, failed):
    async def conversation(client):
        with serve(echo, port=port) as endpoint:
            assert endpoint.url == url
            await client.preflight()
            await client.complete(CALL)
        for _ in range(failed):
            assert (await client.complete(CALL)).finish == "failed"
        with pytest.raises(UserError, match=r"nobody answers any more.*goes on"):
            await client.complete(CALL)
        with serve(echo, port=port):
            assert (await client.complete(CALL)).finish == "stop"

    url = gone()
    port = int(url.rsplit(":")[-1].removesuffix("/v1"))
    assert (failed + 1) * tries >= AWAY
    talk(url, conversation, tries=tries)


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x/v1", "http://", "http://x:port/v1", "http://a b/v1", "http://x/\nv1"]
)
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(UserError, match="--base-url"):
        ChatClient(Endpoint(url, "scripted"))


@pytest.mark.parametrize(
    "options",
    [
        {"model": ""},
        {"structured": "strict"},
        {"tries": 0},
        {"timeout": 0},
        {"requests_per_minute": 0.5},
        {"base_url": "http://x/v1/chat/completions"},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(UserError, match="--"):
        Endpoint(**{"base_url": "http://x/v1", "model": "m", **options}).check()


def test_without_the_openai_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(UserError, match=r"pip install 'mvjax\[curate\]'"):
        ChatClient(Endpoint("http://x/v1", "m"))
