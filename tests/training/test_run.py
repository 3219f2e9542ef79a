"""Whole runs: learning, resuming, interruption, what goes wrong."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from tiny_training import RandomBatches, make_model, make_simple_model

from mvjax.errors import UserError
from mvjax.training.config import RENAMED
from mvjax.training.mesh import make_placement
from mvjax.training.metrics import TIMES, read_metrics
from mvjax.training.train import fit


def start(config, steps, batches=None, model=None, **options):
    batches = batches or RandomBatches()
    return fit(config, model or make_simple_model(), make_placement(config.mesh), batches, steps, **options)


def without_times(path):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in read_metrics(path / "metrics.jsonl")]


def assert_equal_bits(a, b):
    leaves, others = jax.tree.leaves(jax.device_get(a)), jax.tree.leaves(jax.device_get(b))
    assert len(leaves) == len(others)
    for x, y in zip(leaves, others):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_a_tiny_model_learns_a_fixed_batch_by_heart(make_config):
    result = start(make_config(), 60, RandomBatches(fixed=True), make_model(0))
    losses = [line["loss"] for line in read_metrics(result.directory / "metrics.jsonl")]
    assert result.finished
    assert len(losses) == 60
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("make", [make_simple_model, pytest.param(make_model, marks=pytest.mark.slow)])
def test_resumed_run_equals_the_uninterrupted_one_bit_for_bit(make_config, make):
    """A decoder with adapters: `tests/cli/test_train`, and here in the slow suite."""
    stop = int(np.random.default_rng().integers(1, 9))
    whole = start(make_config(name="whole", checkpoints={"every": 4}), 9, model=make())
    config = make_config(name="broken", checkpoints={"every": 4})
    first = start(make_config(name="broken", checkpoints={"every": 4}, steps={"stop_after": stop}), 9, model=make())
    assert not first.finished
    assert int(first.state.step) == stop
    second = start(config, 9, model=make())
    assert second.finished
    assert_equal_bits(whole.state, second.state)
    assert without_times(whole.directory) == without_times(second.directory)


def test_resuming_after_a_crash_drops_the_metrics_that_no_checkpoint_covers(make_config):
    class Crash(Exception):
        pass

    class Crashing(RandomBatches):
        def __next__(self):
            if self.position == 6:
                raise Crash
            return super().__next__()

    whole = start(make_config(name="whole"), 8)
    config = make_config(name="crashed", checkpoints={"every": 4})
    with pytest.raises(Crash):
        start(config, 8, Crashing())
    directory = whole.directory.with_name("crashed")
    with open(directory / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # a line that the crash cut short
    second = start(config, 8)
    assert_equal_bits(whole.state, second.state)
    assert without_times(whole.directory) == without_times(directory)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_stops_and_the_run_goes_on(make_config, number, capsys):
    class Interrupting(RandomBatches):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), number)
            return super().__next__()

    before = signal.getsignal(number)
    config = make_config()
    first = start(config, 6, Interrupting())
    assert not first.finished
    assert int(first.state.step) == 4  # the step in hand is finished
    assert signal.getsignal(number) is before
    second = start(config, 6)
    assert second.finished
    assert "resumed at step 4" in capsys.readouterr().out


def test_second_signal_stops_at_once(make_config):
    class Interrupting(RandomBatches):
        def __next__(self):
            if self.position == 3:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
            return super().__next__()

    with pytest.raises(KeyboardInterrupt):
        start(make_config(), 6, Interrupting())


def test_repeated_sigterm_changes_nothing(make_config):
    """Schedulers repeat it: the step in hand is still finished and saved."""

    class Interrupting(RandomBatches):
        def __next__(self):
            if self.position == 3:
                for _ in range(3):
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    result = start(make_config(), 6, Interrupting())
    assert (result.finished, result.stopped_by, int(result.state.step)) == (False, signal.SIGTERM, 4)
    assert start(make_config(), 6).finished


class Poisoned(RandomBatches):
    """Some batches have weights that are not finite."""

    def __init__(self, *positions):
        super().__init__()
        self.poisoned = positions

    def __next__(self):
        poison = self.position in self.poisoned
        batch = super().__next__()
        return batch._replace(loss_BT=np.where(batch.loss_BT, np.inf, 0.0)) if poison else batch


def test_steps_that_are_not_finite_are_skipped_up_to_the_limit_over_all_starts(make_config, capsys):
    options = {"checkpoints": {"every": 2}}
    config = make_config(steps={"max_skipped": 2}, **options)
    first = start(make_config(steps={"max_skipped": 2, "stop_after": 4}, **options), 9, Poisoned(1, 4, 6))
    assert "warning: step 2: the loss (nan)" in capsys.readouterr().out.replace("(inf)", "(nan)")
    assert not first.finished
    with pytest.raises(UserError, match=r"step 7: .* is not finite; .*; the last checkpoint is good \(step 6\)"):
        start(config, 9, Poisoned(1, 4, 6))
    lines = read_metrics(first.directory / "metrics.jsonl")
    assert [line["skipped"] for line in lines] == [0, 1, 1, 1, 2, 2, 3]
    assert {path.stem for path in (first.directory / "bad-batches").glob("*.json")} == {"step-2", "step-5", "step-7"}
    resumed = start(config, 9, Poisoned(1, 4))  # The count of before still holds: two are allowed, two were skipped.
    assert resumed.finished
    assert read_metrics(first.directory / "metrics.jsonl")[-1]["skipped"] == 2


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_good_checkpoint(make_config):
    config = make_config(checkpoints={"every": 2})
    with pytest.raises(
        UserError, match=r"step 6: .* is not finite; .*step-6\.json; the last checkpoint is good \(step 4\)"
    ):
        start(config, 8, Poisoned(5))
    resumed = start(config, 8)
    assert resumed.finished
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(resumed.state)))


def test_finished_run_is_found_finished(make_config):
    first = start(make_config(), 3)
    second = start(make_config(), 3)
    assert second.finished
    assert_equal_bits(first.state, second.state)
    assert len(read_metrics(first.directory / "metrics.jsonl")) == 3


def test_restart_begins_again(make_config):
    start(make_config(seed=1), 3)
    result = start(make_config(seed=2), 4, restart=True)
    assert [line["step"] for line in read_metrics(result.directory / "metrics.jsonl")] == [1, 2, 3, 4]
    assert json.loads((result.directory / "config.json").read_text())["seed"] == 2


def test_another_configuration_does_not_go_on_with_the_run(make_config):
    start(make_config(), 2)
    with pytest.raises(UserError, match=r"learning_rate was 0\.01 and is now 0\.5.*--restart"):
        start(make_config(optimizer={"learning_rate": 0.5}), 2)
    assert start(make_config(checkpoints={"every": 7, "keep": 1}), 2).finished  # fields that change nothing may change


def test_another_seed_does_not_resume_the_run(make_config):
    start(make_config(seed=1), 2)
    with pytest.raises(UserError, match=r"seed was 1 and is now 2.*--restart"):
        start(make_config(seed=2), 2)


def test_a_run_of_mvjax_0_1_is_resumed(make_config):
    """Its config.json has no sections."""
    first = start(make_config(steps={"stop_after": 2}), 4)
    record = first.directory / "config.json"
    nested = json.loads(record.read_text())
    old_names = {new: old for old, new in RENAMED.items()}
    sections = {name: fields for name, fields in nested.items() if isinstance(fields, dict)}
    flat = {old_names.get(f"{s}.{n}", n): value for s, fields in sections.items() for n, value in fields.items()}
    flat |= {"name": "run", "seed": 0, "output": "elsewhere"}
    del flat["transcripts_per_step"]  # It had no such field.
    record.write_text(json.dumps(flat))
    with pytest.raises(UserError, match=r"optimizer\.learning_rate was 0\.01 and is now 0\.5"):
        start(make_config(optimizer={"learning_rate": 0.5}), 4)
    assert start(make_config(), 4).finished
    assert json.loads(record.read_text()) == nested | {"steps": nested["steps"] | {"stop_after": 0}}


def test_checkpoints_logs_and_profile_as_the_configuration_says(make_config, monkeypatch):
    begun = []
    monkeypatch.setattr(jax.profiler, "start_trace", begun.append)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: begun.append("end"))
    output = {"log_every": 2, "profile_start": 3, "profile_steps": 1}
    result = start(make_config(checkpoints={"every": 1, "keep": 1, "keep_every": 2}, output=output), 5)
    kept = {path.name for path in (result.directory / "checkpoints").iterdir() if path.is_dir()}
    assert kept == {"2", "4", "5"}
    assert [line["step"] for line in read_metrics(result.directory / "metrics.jsonl")] == [2, 4, 5]
    assert begun == [str(result.directory / "profile"), "end"]


def test_a_sample_follows_the_steps_that_are_due(make_config):
    class Stub:
        def __init__(self, directory, say):
            self.directory, self.taken = directory, []
            made.append(self)

        def due(self, step):
            return step % 2 == 0

        def __call__(self, step, params):
            self.taken.append((step, sorted(params)))

    made = []
    result = start(make_config(), 5, make_sampler=Stub)
    (stub,) = made
    assert stub.directory == result.directory
    assert stub.taken == [(2, ["matrix", "tag_rows"]), (4, ["matrix", "tag_rows"])]


def test_directory_of_something_else_is_left_alone(make_config, tmp_path):
    precious = tmp_path / "runs" / "run" / "thesis.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("years of work")
    with pytest.raises(UserError, match="is not the directory of a run"):
        start(make_config(), 2, restart=True)
    assert precious.read_text() == "years of work"


def test_two_processes_cannot_train_one_run(make_config):
    class Nested(RandomBatches):
        def __next__(self):
            with pytest.raises(UserError, match="another process is training this run"):
                start(make_config(), 2)
            return super().__next__()

    assert start(make_config(), 1, Nested()).finished


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"mesh": {"fsdp": 99}}, "= 99 chips, but there are 1"), ({"data": {"accumulation": 3}}, "accumulation = 3")],
)
def test_devices_and_rows_that_do_not_fit(make_config, fields, message):
    with pytest.raises(UserError, match=message):
        start(make_config(**fields), 1)


def test_tensorboard_events_and_progress_lines(make_config, capsys):
    result = start(make_config(output={"tensorboard": True}), 2)
    assert list((result.directory / "tensorboard").glob("events.*"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run: new run, 2 steps of 4 x 24 tokens")
    assert lines[1].startswith("step 1/2  loss ")
    assert "tokens/s" in lines[1]
    assert "left 0:00" in lines[1]
