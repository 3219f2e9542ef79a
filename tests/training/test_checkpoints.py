"""Checkpoints: whole or absent, checked, and what happens to those that are not."""

import contextlib
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mvjax.errors import UserError
from mvjax.training.checkpoints import Checkpoints, DamagedCheckpointWarning, fingerprint, fingerprints
from mvjax.training.model import TrainState
from mvjax.training.verified import verified
from mvjax.weights.checkpoint import lazy


def make_state(step, size=1000):
    params = {"a": jnp.arange(size, dtype=jnp.float32) * step, "b/c": jnp.full((2, 3), step, jnp.float32)}
    return TrainState(jnp.int32(step), params, ({"a": jnp.ones(size)}, jnp.int32(step)))


def test_saved_state_and_record_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.restore(make_state(0)) is None
    checkpoints.save(make_state(5), {"data": {"window": 3, "row": 4}})
    checkpoints.wait()
    state, record = checkpoints.restore(make_state(0))
    assert record["data"] == {"window": 3, "row": 4}
    assert record["step"] == 5
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(5)), strict=True):
        np.testing.assert_array_equal(x, y)
        assert x.dtype == y.dtype


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (1, 2, 3, 4):
        checkpoints.save(make_state(step), {})
    checkpoints.wait()
    assert checkpoints.steps() == [3, 4]
    assert Checkpoints(tmp_path / "c", keep=2).steps() == [3, 4]


def test_every_so_many_steps_one_is_kept_for_good(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1, keep_every=2)
    for step in (1, 2, 3, 4, 5):
        checkpoints.save(make_state(step), {})
    checkpoints.wait()
    assert checkpoints.steps() == [2, 4, 5]


def test_what_a_step_overwrites_meanwhile_is_saved_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    state = jax.tree.map(jnp.copy, make_state(3, 300_000))
    checkpoints.save(state, {})
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    jax.block_until_ready(overwrite(state))
    checkpoints.wait()
    found, _ = checkpoints.restore(make_state(0, 300_000))
    np.testing.assert_array_equal(found.params["a"], make_state(3, 300_000).params["a"])


def test_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    checkpoints.save(make_state(1), {})
    checkpoints.wait()
    with pytest.raises(UserError, match=r"another model: .*'a'.* is float32\[1000\] there and float32\[1001\] here"):
        checkpoints.restore(make_state(0, 1001))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32, jnp.bool_])
def test_a_fingerprint_sees_every_bit_and_place(dtype):
    rng = np.random.default_rng(0)
    x = np.asarray(rng.integers(0, 2, (3, 4, 5)), dtype)
    wanted = fingerprints({"x": jnp.asarray(x)})
    assert fingerprints({"x": jnp.asarray(x.copy())}) == wanted
    for _ in range(20):
        place = tuple(rng.integers(size) for size in x.shape)
        changed = x.copy()
        changed[place] = 1 - x[place].astype(int)
        assert fingerprints({"x": jnp.asarray(changed)}) != wanted
    assert fingerprints({"x": jnp.asarray(x[:, ::-1])}) != wanted


def cut(directory):
    """The largest file loses its second half."""
    file = max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(directory):
    """One bit in the middle of the largest file changes."""
    file = max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def lose_state(directory):
    for path in sorted((directory / "state").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("damage", [cut, flip, lose_state])
def test_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    for step in (1, 2):
        checkpoints.save(make_state(step), {})
    checkpoints.wait()
    checkpoints.close()
    damage(tmp_path / "c" / "2")
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    with pytest.warns(DamagedCheckpointWarning, match=r"c/2: damaged, an older checkpoint is used"):
        state, record = checkpoints.restore(make_state(0))
    assert int(state.step) == record["step"] == 1
    np.testing.assert_array_equal(state.params["a"], make_state(1).params["a"])
    checkpoints.save(make_state(2), {})  # the step can be saved anew
    checkpoints.wait()
    assert int(checkpoints.restore(make_state(0))[0].step) == 2


def test_array_that_changed_behind_the_fingerprint_is_noticed(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(make_state(1), {})
    checkpoints.wait()
    record = tmp_path / "c" / "1" / "record"
    file = next(path for path in record.iterdir() if "fingerprints" in path.read_text())
    text = file.read_text()
    start = text.index("fingerprints")
    digit = next(i for i in range(start, len(text)) if text[i].isdigit() and text[i] != "1")
    file.write_text(text[:digit] + "1" + text[digit + 1 :])
    with pytest.warns(DamagedCheckpointWarning, match="is not what was saved"):
        assert Checkpoints(tmp_path / "c", keep=3).restore(make_state(0)) is None


def test_half_written_checkpoint_is_never_listed(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    checkpoints.save(make_state(1), {})
    checkpoints.wait()
    checkpoints.close()
    half = tmp_path / "c" / "2.orbax-checkpoint-tmp-123"
    (half / "state").mkdir(parents=True)
    (half / "state" / "d").write_bytes(b"1234")
    checkpoints = Checkpoints(tmp_path / "c", keep=3)
    assert checkpoints.steps() == [1]
    assert int(checkpoints.restore(make_state(0))[0].step) == 1


SAVE_WITHOUT_ROOM = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_checkpoints import make_state
from mvjax.errors import UserError
from mvjax.training.checkpoints import Checkpoints
import numpy as np, jax.numpy as jnp
checkpoints = Checkpoints(Path(sys.argv[1]), keep=1)
checkpoints.save(make_state(1), {})
checkpoints.wait()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
noise = jnp.asarray(np.random.default_rng(0).normal(size=100_000), jnp.float32)
big = make_state(2, 100_000)._replace(params={"a": noise})
try:
    checkpoints.save(big, {})
    checkpoints.wait()
except UserError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(checkpoints.steps())
    checkpoints.save(make_state(3), {})
    checkpoints.wait()
    print(checkpoints.steps())
"""


def test_no_room_while_saving_leaves_the_previous_checkpoint(tmp_path):
    """The limit of a process's file size stands in for a full disk: the write fails in the operating system."""
    command = [sys.executable, "-c", SAVE_WITHOUT_ROOM, str(tmp_path / "c"), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert "the checkpoint of step 2 could not be written" in lines[0]
    assert "the checkpoint of step 1 is intact" in lines[0]
    assert lines[1:] == ["[1]", "[3]"]
    checkpoints = Checkpoints(tmp_path / "c", keep=1)
    assert int(checkpoints.restore(make_state(0))[0].step) == 3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_fingerprints_of_parts_add_up_and_other_numbers_are_noticed(dtype):
    """Whatever parts the rows are read in, on the host; rows that are read again count once."""
    array = np.random.default_rng(0).integers(-9, 9, (5, 3, 70_000 // 3)).astype(dtype)
    wanted = int(fingerprint(jnp.asarray(array)))
    for number in (wanted, wanted ^ 1):
        entry = verified(lazy(array), number, "weights of step 3")
        for start, stop in ((0, 2), (4, 5), (0, 1), (2, 4)):
            np.testing.assert_array_equal(entry.read_rows(start, stop), array[start:stop])
        with contextlib.nullcontext() if number == wanted else pytest.raises(UserError, match="weights of step 3: the"):
            entry.read_rows(4, 5)
        with contextlib.nullcontext() if number == wanted else pytest.raises(UserError, match="damaged"):
            verified(lazy(array), number, "x").read()
