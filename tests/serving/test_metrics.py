"""Metrics: vLLM's names, counts over an engine that is built again, and a dashboard that asks for nothing else."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted_answer import Answer, Block, result, updates, vocabulary

from mvjax.engine.stats import EngineStats
from mvjax.serving.metrics import CONTENT_TYPE, Metrics

ROOT = Path(__file__).parents[2]
ANSWER = Answer(["a ", Block(["b", "c"], [["d e f"], ["g"]], "h")], cuts={1: "tokens"})
TOKENIZER = vocabulary(ANSWER)


class Story:
    """Metrics on a clock of its own."""

    def __init__(self):
        self.now = 100.0
        self.metrics = Metrics("m", page_slots=16, clock=lambda: self.now)

    def values(self):
        """Name with labels other than the model's -> value."""
        found = {}
        for family in text_string_to_metric_families(self.metrics.page().decode()):
            for sample in family.samples:
                labels = {name: value for name, value in sample.labels.items() if name != "model_name"}
                if family.name.startswith(("vllm:", "mvjax:")):
                    assert sample.labels["model_name"] == "m"
                found[(sample.name, *sorted(labels.items()))] = sample.value
        return found


def stats(**fields):
    return EngineStats(*[0] * len(EngineStats._fields))._replace(**fields)


def test_a_request_from_call_to_end():
    story = Story()
    metrics = story.metrics
    metrics.submitted(1, "a", 12)
    steps = list(updates(ANSWER, TOKENIZER))
    for number, step in enumerate(steps):
        story.now += 3 if number == 0 else 0.5
        metrics.tokens(1, step)
    story.now += 1
    made = result(ANSWER, abandoned=2)
    metrics.ended(1, made, None)
    values = story.values()
    assert values["vllm:time_to_first_token_seconds_sum",] == 3
    assert values["vllm:inter_token_latency_seconds_count",] == len(steps) - 1
    assert values["vllm:inter_token_latency_seconds_sum",] == 0.5 * (len(steps) - 1)
    whole = 3 + 0.5 * (len(steps) - 1) + 1
    assert values["vllm:e2e_request_latency_seconds_sum",] == whole
    assert values["vllm:request_time_per_output_token_seconds_sum",] == pytest.approx(
        (whole - 3) / (made.new_tokens - 1)
    )
    assert values["vllm:request_queue_time_seconds_sum",] == 0.25
    assert values["vllm:request_prompt_tokens_sum",] == 12
    assert values["vllm:request_generation_tokens_sum",] == made.new_tokens
    assert values["vllm:request_success_total", ("finished_reason", "stop")] == 1
    assert values["mvjax:degree_sum",] == pytest.approx(made.degree)
    assert values["mvjax:critical_path_tokens_sum",] == made.critical_path
    assert (values["mvjax:barred_tokens_total",], values["mvjax:abandoned_blocks_total",]) == (2, 2)
    assert values["mvjax:cut_branches_total", ("reason", "tokens")] == 1


def test_tokens_that_come_together_share_their_time():
    story = Story()
    story.metrics.submitted(1, "a", 12)
    (first,), (second,) = list(updates(ANSWER, TOKENIZER))[:2]
    story.metrics.tokens(1, [first])
    story.now += 4
    story.metrics.tokens(1, [second._replace(tokens=[1] * 8), second._replace(segment=1, tokens=[1] * 3)])
    assert story.values()["vllm:inter_token_latency_seconds_sum",] == 0.5


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        *(("stop", "stop"), ("tokens", "length"), ("positions", "length"), ("cancelled", "abort")),
        *(("deadline", "abort"), ("not finite", "error"), ("failed", "error")),
    ],
)
def test_reasons_have_the_words_of_vllm(reason, word):
    story = Story()
    story.metrics.submitted(1, "a", 12)
    story.metrics.ended(1, result(ANSWER, reason=reason), None)
    assert story.values()["vllm:request_success_total", ("finished_reason", word)] == 1


def test_ends_without_a_result_and_of_requests_never_seen():
    story = Story()
    story.metrics.submitted(1, "a", 12)
    story.metrics.ended(1, None, RuntimeError("gone"))
    story.metrics.ended(2, None, RuntimeError("gone"))
    story.metrics.tokens(3, next(updates(ANSWER, TOKENIZER)))
    values = story.values()
    assert values["vllm:request_success_total", ("finished_reason", "error")] == 2
    assert values["vllm:e2e_request_latency_seconds_count",] == 1
    assert values["mvjax:degree_count",] == 0
    assert not story.metrics._times


def test_counts_go_on_over_an_engine_that_is_built_again():
    story = Story()
    busy = {"running": 3, "waiting": 2, "rows": 7, "pages_used": 3, "pages": 12, "programs": 5}
    story.metrics.stay(stats(**busy, generation_tokens=10, preemptions=2, prefix_queries=9, prefix_hits=4), 0.1)
    story.metrics.stay(stats(generation_tokens=15, pages=12, preemptions=2, cold_compilations=1), 0.1)
    story.metrics.stay(stats(generation_tokens=4, pages=12), 0.1)
    values = story.values()
    assert values["vllm:generation_tokens_total",] == 19
    assert values["vllm:num_preemptions_total",] == 2
    assert values["mvjax:cold_compilations_total",] == 1
    assert values["vllm:prefix_cache_queries_total",] == values["vllm:gpu_prefix_cache_queries_total",] == 9
    assert values["vllm:prefix_cache_hits_total",] == values["vllm:gpu_prefix_cache_hits_total",] == 4
    assert values["vllm:num_requests_running",] == 0
    story.metrics.stay(stats(**busy, generation_tokens=4), 0.1)
    values = story.values()
    assert values["vllm:num_requests_running",] == 3
    assert values["vllm:num_requests_waiting",] == 2
    assert values["mvjax:rows_live",] == 7
    assert values["vllm:kv_cache_usage_perc",] == values["vllm:gpu_cache_usage_perc",] == 0.25
    assert values["vllm:cache_config_info", ("block_size", "16"), ("num_gpu_blocks", "12")] == 1
    assert values["mvjax:stay_seconds_count",] == 4


def test_each_server_has_a_registry_of_its_own():
    Story(), Story()
    assert b"process_resident_memory_bytes" in Story().metrics.page()
    assert "version=0.0.4" in CONTENT_TYPE


def names():
    """Series that a server shows once everything has happened."""
    story = Story()
    story.metrics.stay(stats(), 0.1)
    story.metrics.submitted(1, "a", 12)
    story.metrics.ended(1, result(ANSWER), None)
    return {name for name, *_ in story.values()}


def test_the_dashboard_asks_for_what_there_is():
    board = json.loads((ROOT / "launch" / "serving" / "grafana.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    asked = {name for query in queries for name in re.findall(r"(?:vllm|mvjax|process)[:_]\w+", query)}
    assert len(asked) > 15
    assert asked <= names(), asked - names()
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_the_page_of_docs_lists_every_metric():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `((?:vllm|mvjax):\w+)`", page, re.M))
    described |= {name for line in re.findall(r"^\| `(?:vllm|mvjax):.*$", page, re.M) for name in METRIC.findall(line)}
    suffix = re.compile(r"_(total|bucket|sum|count|created)$")
    there = {suffix.sub("", name) for name in names() if name.startswith(("vllm:", "mvjax:"))}
    assert described == there


METRIC = re.compile(r"`((?:vllm|mvjax):\w+)`")
