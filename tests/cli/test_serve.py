"""`mvjax serve`: what the command line becomes, what it refuses, and a server of a toy model as a process."""

import dataclasses
import signal
import socket
import time
import types
from pathlib import Path

import httpx
import pytest
from serve_process import KEY, NAME, Server
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model

from mvjax.cli import serve
from mvjax.cli.main import main
from mvjax.cli.serve import ServeArguments, engine_config, serving_config
from mvjax.errors import UserError


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A GGUF file of a model with two layers and a vocabulary of bytes."""
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=2048)
    return write_gguf_model(tmp_path_factory.mktemp("toy") / "toy.gguf", config, tiny_tensors(config))


def test_what_options_become(monkeypatch):
    monkeypatch.delenv(serve.KEY_VARIABLE, raising=False)
    plain = ServeArguments(model=Path("models/Some-7B"))
    assert serving_config(plain, trained=False).models == ("Some-7B",)
    assert serving_config(plain, trained=True).mode == "parallel"
    assert serving_config(plain, trained=True).suffixes
    assert serving_config(plain, trained=False).mode == "autoregressive"
    assert not serving_config(plain, trained=False).suffixes
    assert serving_config(plain, trained=False).api_key == ""
    monkeypatch.setenv(serve.KEY_VARIABLE, "of the environment")
    assert serving_config(plain, trained=False).api_key == "of the environment"
    assert "of the environment" not in repr(serving_config(plain, trained=False))
    given = dataclasses.replace(plain, api_key="given", reasoning_content=True, served_model_name=("a", "b"))
    assert serving_config(given, trained=False).api_key == "given"
    assert serving_config(given, trained=False).reasoning_name == "reasoning_content"
    assert serving_config(given, trained=False).models == ("a", "b")
    for reach, named, slots in ((2048, None, 2048), (2**20, None, 32768), (None, None, 32768), (2048, 100, 100)):
        sizes = engine_config(dataclasses.replace(plain, max_length=named), types.SimpleNamespace(max_position=reach))
        assert sizes.max_slots - sizes.max_branches == slots


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt-logprobs", 100, "--logprobs", None), "needs --logprobs as well"),
        (("--host", "no.such.host.invalid"), "choose another --host or --port"),
        (("--model", "nowhere.gguf"), "nowhere.gguf"),
    ],
)
def test_what_is_refused(words, said, capsys):
    assert main(["serve", "--port", "0", *map(str, words)]) == 2
    assert said in capsys.readouterr().err


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert main(["serve", "--port", str(other.getsockname()[1])]) == 2
        assert "choose another --host or --port" in capsys.readouterr().err


def test_without_its_libraries(monkeypatch):
    monkeypatch.setattr(serve, "LIBRARIES", ("json", "no_such_library"))
    with pytest.raises(UserError, match=r"no_such_library: not installed; pip install 'mvjax\[serve\]'"):
        serve.require_libraries()


@pytest.mark.slow
def test_a_server_from_its_start_to_its_end(toy, tmp_path):
    """The key of the environment, likelihoods of prompts, the log; a signal while it answers, and two."""
    sizes = ("--max-requests", 2, "--max-branches", 2, "--max-length", 2000, "--prompt-logprobs", 300)
    words = ("--model", toy, "--served-model-name", NAME, *sizes, "--request-log", tmp_path / "requests.jsonl")
    long = {"prompt": "abc", "max_tokens": 1900, "ignore_eos": True, "mode": "autoregressive", "stream": True}
    for number, signals in enumerate((1, 2)):
        server = Server(words, tmp_path / f"{number}.txt")
        assert "(no key" not in server.log.read_text()
        with httpx.Client(base_url=server.address, timeout=60) as client:
            assert client.get("/v1/models").status_code == 401
            client.headers["Authorization"] = f"Bearer {KEY}"
            scored = {"prompt": "What is 1+1?", "echo": True, "logprobs": 1, "max_tokens": 0}
            (choice,) = client.post("/v1/completions", json=scored).json()["choices"]
            assert all(value < 0 for value in choice["logprobs"]["token_logprobs"][1:])
            with client.stream("POST", "/v1/completions", json=long) as response:
                lines = response.iter_lines()
                next(lines)
                for _ in range(signals):
                    server.process.send_signal(signal.SIGTERM)
                    time.sleep(0.2)
                if signals == 1:
                    assert list(lines)[-2] == "data: [DONE]"
        assert server.process.wait(60) == (0 if signals == 1 else 130)
        assert "Traceback" not in server.log.read_text()
    assert len((tmp_path / "requests.jsonl").read_text().splitlines()) >= 1
