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
    words = [program, "benchmark", "run", "--target", server.address, "--model", server.model]
    words += ["--profile", "concurrent", "--rate", "4", "--max-requests", "16", "--outputs", "found.json"]
    words += ["--data", "prompt_tokens=32,output_tokens=16"]
    backend = {"api_key": server.key}
    found = subprocess.run(
        [*words, "--backend-kwargs", json.dumps(backend)],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    (benchmark,) = json.loads((tmp_path / "found.json").read_text())["benchmarks"]
    print(json.dumps(benchmark["metrics"]["requests_per_second"])[:500])
