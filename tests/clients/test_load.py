"""guidellm: a short load, all of whose requests succeed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.clients


def test_guidellm(server, tmp_path):
    program = shutil.which("guidellm", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("no guidellm; pip install '.[clients]'")
    (tmp_path / "prompts.txt").write_text("".join(f"What is {n}+1?\n" for n in range(16)))
    backend = f"kind=openai_http,target={server.address},model={server.model},api_key={server.key},max_tokens=32"
    words = [program, "run", "--backend", backend, "--profile", "kind=concurrent,streams=4", "--disable-console"]
    words += ["--constraint", "kind=max_requests,count=16", "--data", "kind=text_file,path=prompts.txt"]
    words += ["--output", "kind=json,path=found.json"]
    before = server.metric("vllm:request_success_total")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    (benchmark,) = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    assert server.metric("vllm:request_success_total") >= before + 16
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (16, 0), totals
