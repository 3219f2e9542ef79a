"""What a run reports: the files, the display, and the step_metrics behind them."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from fake_clock import FakeTime
from rich.console import Console
from tiny_training import ROW, RandomBatches

from mvjax.data.schedule import BatchFacts
from mvjax.errors import UserError
from mvjax.language import PARTS
from mvjax.training import metrics
from mvjax.training.clock import Clock
from mvjax.training.flops import ModelFlops, count_visible
from mvjax.training.held_out import summary
from mvjax.training.loss import LossSums
from mvjax.training.metrics import TIMES, Display, MetricsFile, TensorBoard, duration, read_metrics
from mvjax.training.step_metrics import StepMetrics, memory

REPORTED = {"loss": 2.5, "accuracy": 0.25, "targets": 40.0, "gradient_norm": 1.5}
REPORTED |= {f"{name}_{part}": 1.0 for name in ("loss", "accuracy") for part in PARTS if part != "prompt"}


def make_step_metrics(**options):
    wait = FakeTime()
    clock = Clock(wait.now, wait.date)
    clock.loop_begins()
    options = {"steps": 10, "first": 0, "room": 4 * ROW, "schedule": lambda done: 0.1 * (done + 1)} | options
    return wait, clock, StepMetrics(clock, **options)


def do(wait, clock, step_metrics, number, data=1.0, step=9.0, facts=None, **options):
    with clock("data"):
        wait(data)
        batch = next(RandomBatches())
    with clock("step"):
        wait(step)
    return step_metrics.step(number, REPORTED, batch, facts, **options)


def test_rates_and_times_of_a_run(tmp_path):
    wait, clock, step_metrics = make_step_metrics(tags=5.0)
    clock.resume(tmp_path / "clock.json")
    facts = BatchFacts(rows=[], tokens=90, efficiency=90 / 96, parallel=1.5)
    line = do(wait, clock, step_metrics, 1, facts=facts)
    assert line["step"] == 1
    assert line.items() >= REPORTED.items()
    assert (line["learning_rate"], line["learning_rate_tags"]) == (0.1, 0.5)
    assert (line["packing"], line["parallel"], line["tokens"]) == (90 / 96, 1.5, 96)
    assert (line["tokens_per_second"], line["room_per_second"]) == (9.0, 9.6)
    assert line["data_wait"] == 0.1
    assert line["goodput"] == 0.9
    assert line["mfu"] is None
    with clock("checkpoint"):
        wait(100)
    with clock("sample"):
        wait(50)
    line = do(wait, clock, step_metrics, 2, data=3, step=17, facts=facts)
    assert (line["step_seconds"], line["data_seconds"]) == (17, 3)  # of this step
    assert line["tokens_per_second"] == 180 / 30  # neither saving nor sampling slows the rate
    assert line["data_wait"] == 4 / 30
    assert (line["checkpoint_seconds"], line["sample_seconds"], line["seconds"]) == (100, 50, 180)
    assert line["goodput"] == 26 / 180
    assert step_metrics.seconds_left == 8 * 15


def test_compiling_is_in_no_rate():
    wait, clock, step_metrics = make_step_metrics()
    with clock("data"):
        wait(2)
    with clock("compile"):
        wait(60)
    line = do(wait, clock, step_metrics, 1, data=0, step=4)
    assert line["tokens_per_second"] == 96 / 6
    assert line["compile_seconds"] == 60


def test_rates_forget_what_lies_behind_the_window():
    wait, clock, step_metrics = make_step_metrics(window=2)
    for number, step in enumerate((1000, 4, 6), start=1):
        line = do(wait, clock, step_metrics, number, data=0, step=step)
    assert line["tokens_per_second"] == 2 * 96 / 10
    assert step_metrics.seconds_left == 7 * 5


def test_share_of_the_peak_is_needed_operations_over_possible_ones():
    model = ModelFlops(projections=1000, head=500, adapters=0, attention=16, frozen=False)
    batch = next(RandomBatches())
    tokens, pairs = count_visible(batch)
    needed = model.step(tokens, REPORTED["targets"], pairs)
    wait, clock, step_metrics = make_step_metrics(flops=model, peak=needed / 4)
    assert do(wait, clock, step_metrics, 1, data=2, step=6)["mfu"] == 0.5
    # The rows of other processes count as much as their tokens are more than ours.
    wait, clock, step_metrics = make_step_metrics(flops=model, peak=needed / 4)
    facts = BatchFacts(rows=[], tokens=3 * tokens, efficiency=1.0, parallel=1.0)
    mfu = do(wait, clock, step_metrics, 1, data=2, step=6, facts=facts)["mfu"]
    assert mfu == pytest.approx(model.step(3 * tokens, REPORTED["targets"], 3 * pairs) / (8 * needed / 4))
    assert 0.5 < mfu < 1.5


def test_skipped_steps_are_counted_and_are_no_good_time():
    wait, clock, step_metrics = make_step_metrics(skipped=2)
    assert do(wait, clock, step_metrics, 1)["skipped"] == 2
    line = do(wait, clock, step_metrics, 2, good=False)
    assert line["skipped"] == step_metrics.skipped == 3
    assert line["goodput"] == 9 / 20


def test_run_without_tag_rows_or_facts_leaves_their_fields_out():
    wait, clock, step_metrics = make_step_metrics()
    line = do(wait, clock, step_metrics, 1)
    assert "learning_rate_tags" not in line
    assert line["parallel"] is None
    assert line["packing"] == 1.0  # counted from the rows themselves


def test_memory_is_that_of_the_fullest_device():
    devices = [
        SimpleNamespace(memory_stats=lambda n=n: {"bytes_in_use": n, "peak_bytes_in_use": 10 - n}) for n in (1, 4, 3)
    ]
    assert memory(devices) == (4, 9)
    before = memory()[0]
    block = np.ones(2 << 24)
    assert memory()[0] - before > block.nbytes // 2
    assert memory()[1] >= memory()[0] // 2


def test_every_field_is_described_in_the_module():
    described = set()
    for names in re.findall(r"^    (\w+(?:, \w+)*)  ", metrics.__doc__, re.MULTILINE):
        for name in names.split(", "):
            parts = [part for part in PARTS if part != "prompt"] if name.endswith("_PART") else [""]
            described |= {name.removesuffix("PART") + part for part in parts}
    wait, clock, step_metrics = make_step_metrics(tags=2.0)
    line = do(wait, clock, step_metrics, 1)
    zeros = np.zeros(len(PARTS))
    assert described == set(line) | set(summary(LossSums(zeros[0], zeros, zeros, zeros)))
    assert set(TIMES) < set(line)


def test_equal_runs_on_a_faster_machine_differ_in_times_alone():
    lines = []
    for speed in (1.0, 3.0):
        wait, clock, step_metrics = make_step_metrics(flops=ModelFlops(9, 9, 0, 9, False), peak=1e6)
        wait(speed)
        line = do(wait, clock, step_metrics, 1, data=speed**2, step=speed)
        lines.append({name: value for name, value in line.items() if name not in TIMES})
    assert lines[0] == lines[1]


def test_metrics_file_goes_on_behind_what_a_checkpoint_covers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    for step in (1, 2, 3):
        file.write({"step": step, "loss": float("nan") if step == 2 else 1 / 3, "mfu": None})
    file.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')
    file = MetricsFile(path, 2)
    file.write({"step": 3, "loss": 7.0})
    file.close()
    assert read_metrics(path) == [
        {"step": 1, "loss": 0.33333334, "mfu": None},
        {"step": 2, "loss": None, "mfu": None},
        {"step": 3, "loss": 7.0},
    ]


def test_no_room_for_metrics_is_one_line(tmp_path):
    class Full(io.StringIO):
        name = "metrics.jsonl"

        def flush(self):
            raise OSError(28, "No space left on device")

    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.close()
    file._file = Full()
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written \(No space left on device\); make room"):
        file.write({"step": 1})
    file.close()


def test_tensorboard_gets_the_finite_numbers(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    board = TensorBoard(tmp_path, 0)
    board.write({"step": 3, "loss": 2.0, "loss_path": float("nan"), "mfu": None, "goodput": 0.5})
    board.close()
    (path,) = tmp_path.iterdir()
    data, found = path.read_bytes(), {}
    while data:  # Length, its checksum, the event, its checksum.
        length = int.from_bytes(data[:8], "little")
        event = Event.FromString(data[12 : 12 + length])
        found |= {value.tag: (event.step, value.simple_value) for value in event.summary.value}
        data = data[16 + length :]
    assert found == {"loss": (3, 2.0), "goodput": (3, 0.5)}


def show(lines, **options):
    """What the display prints in a pipe, or with `force_terminal` on a terminal."""
    console = Console(file=io.StringIO(), highlight=False, soft_wrap=True, width=200, **options.pop("console", {}))
    display = Display("demo", 20, 2, console, **options)
    display.say("hello [bold]you[/bold]")
    for number, line in enumerate(lines):
        display.step({"learning_rate": 1e-3, "tokens_per_second": 123.4} | line, 3725, log=number % 2 == 0)
    display.close()
    return console.file.getvalue()


LINES = [
    {"step": 3, "loss": 1.5, "mfu": 0.416, "data_wait": 0.003, "goodput": 0.95},
    {"step": 4, "loss": 1.25},
    {"step": 5, "loss": float("nan"), "mfu": None, "skipped": 1},
]


def test_plain_lines_in_a_pipe():
    assert show(LINES).splitlines() == [
        "hello [bold]you[/bold]",
        "step 3/20  loss 1.5000  123 tokens/s  MFU 41.6 %  data wait 0.3 %  goodput 95.0 %  lr 0.001  left 1:02:05",
        "step 5/20  loss nan  123 tokens/s  skipped 1  lr 0.001  left 1:02:05",
    ]


def test_bar_on_a_terminal():
    text = show(LINES, console={"force_terminal": True})
    assert "5/20" in text
    assert "skipped 1" in text
    assert "left" not in text  # no plain lines beside it
    assert "hello [bold]you[/bold]" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_all_processes_but_one_are_silent(terminal):
    assert show(LINES, quiet=True, console={"force_terminal": terminal}) == ""


def test_duration():
    assert [duration(seconds) for seconds in (0.4, 59.6, 3600)] == ["0:00:00", "0:01:00", "1:00:00"]
