"""`mvjax curate llm` with the model that `mvjax serve` serves."""

import json
import os
import subprocess

import pytest
from serve_process import MVJAX

pytestmark = pytest.mark.clients


def test_a_run(server, tmp_path):
    traces = [
        {"id": str(n), "question": f"{n}+1? {n}+2?", "reasoning": f"{n}+1={n + 1}. It is {n + 2}.",
         "answer": str(n + 2)} for n in range(3)
    ]  # fmt: skip
    (tmp_path / "traces.jsonl").write_text("".join(json.dumps(trace) + "\n" for trace in traces))
    before = server.metric("vllm:request_success_total")
    words = ["curate", "llm", "traces.jsonl", "--base-url", server.url, "--model", server.model]
    words += ["--output", "made.jsonl", "--max-tokens", "60", "--retries", "0"]
    environment = {**os.environ, "OPENAI_API_KEY": server.key}
    its = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 600}
    found = subprocess.run([*MVJAX, *words], **its)
    assert "Traceback" not in found.stderr
    assert server.metric("vllm:request_success_total") > before, found.stdout + found.stderr
    # A model with random weights writes no plan: every problem falls back to its sequential form.
    records = [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()]
    assert len(records) == 3, found.stdout + found.stderr
