"""inspect-ai: 20 questions of GSM8K."""

import json
from importlib import resources

import pytest

pytestmark = pytest.mark.clients


def test_gsm8k(server, tmp_path):
    inspect_ai = pytest.importorskip("inspect_ai", reason="no inspect-ai; pip install '.[clients]'")
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes
    from inspect_ai.solver import generate

    lines = (resources.files("mvjax") / "assets" / "gsm8k_sample.jsonl").read_text(encoding="utf-8").splitlines()[:20]
    problems = [json.loads(line) for line in lines]
    samples = [Sample(input=its["question"], target=its["answer"].rpartition("####")[2].strip()) for its in problems]
    task = inspect_ai.Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
    config = GenerateConfig(max_tokens=60, temperature=0.0, seed=1, max_connections=8)
    model = get_model(f"openai-api/mvjax/{server.model}", base_url=server.url, api_key=server.key, config=config)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert len(log.samples) == 20
    assert all(sample.output.usage.output_tokens > 0 for sample in log.samples)
