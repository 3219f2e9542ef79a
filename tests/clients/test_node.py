"""Clients for Node: OpenAI's, and the Vercel AI SDK."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients

SCRIPTS = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def node(tmp_path_factory, server):
    """Runs a script with the packages of `make test-clients`; what it printed."""
    packages = Path(os.environ.get("MVJAX_NODE", ""))
    if shutil.which("node") is None or not (packages / "node_modules" / "openai").is_dir():
        pytest.skip("no Node, or no packages for it: make test-clients installs them where npm is")

    def run(name):
        shutil.copy(SCRIPTS / name, packages / name)
        words = ["node", name, server.url, server.model, server.key]
        found = subprocess.run(words, cwd=packages, capture_output=True, text=True, timeout=300)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])

    return run


def test_openai(node):
    saw = node("openai.mjs")
    assert saw["same"]
    assert saw["responses"]
    assert saw["branches"] > 0
    assert saw["usage"]["completion_tokens"] > 0
    assert saw["refused"] == {"status": 400, "param": "tools"}


def test_vercel_ai_sdk(node):
    saw = node("ai_sdk.mjs")
    assert saw["same"]
    assert saw["reasoning"]
    assert saw["tokens"] > 0
    assert saw["reason"] in ("stop", "length")
