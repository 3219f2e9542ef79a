"""Schemathesis: requests made of the API's own description, right ones and wrong ones."""

import re
import subprocess
import sys

import pytest

pytestmark = pytest.mark.clients


@pytest.mark.timeout(1200)
def test_no_failures_and_no_undocumented_statuses(server, tmp_path):
    pytest.importorskip("schemathesis", reason="no schemathesis; pip install '.[clients]'")
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    words = ["--checks", checks, "--max-examples", "40", "--header", f"Authorization: Bearer {server.key}"]
    words += ["--request-timeout", "60", "--seed", "1", "--suppress-health-check", "all"]
    words += ["--generation-database", "none"]
    run = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json", *words]
    found = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
    assert re.search(r"\d+ passed|No issues found", found.stdout), found.stdout[-2000:]
