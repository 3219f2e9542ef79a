"""What a run holds on its devices is what `mvjax plan` says; what it has compiled once it finds again."""

import json
import socket

import numpy as np
import pytest
from whole_runs import start, whole_config, write_files

SCRIPT = """
import json, sys
from pathlib import Path
import jax
from whole_runs import Programs, live_bytes, whole_config
from mvjax.planning.machines import machine
from mvjax.planning.program import describe_step
from mvjax.planning.shapes import find_shape
from mvjax.training import train as training

place, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
held, programs = {}, Programs()

def measured(name, function):
    def call(*arguments, **options):
        held.setdefault(name, live_bytes())
        return function(*arguments, **options)
    return call

training.Checkpoints.restore = measured("before", training.Checkpoints.restore)
training.make_update = measured("state", training.make_update)
training.shard_batch = measured("loop", training.shard_batch)
starts = []
for _ in range(2):
    config = whole_config(place, **changes, steps={"stop_after": 1})
    held.clear()
    result = training.train(config)
    asked, found = programs.take()
    starts.append({**held, "steps": int(result.state.step), "asked": asked, "found": found})
    del result
    jax.clear_caches()
step = describe_step(config, find_shape(config.model.path), machine("cpu:8"))
given = step.arguments
plan = {"weights": given.weights, "trained": given.trained, "optimizer": given.optimizer, "weights_of": step.parameters}
print(json.dumps({"starts": starts, "plan": plan}))
"""

PROCESS = """
import json, sys
from pathlib import Path
import jax
from whole_runs import Programs, whole_config
from mvjax.training import distributed
from mvjax.training.train import train

distributed.start()
programs = Programs()
result = train(whole_config(Path(sys.argv[1]), **json.loads(sys.argv[2])))
print(jax.process_index(), int(result.state.step), *programs.take())
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    write_files(place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"mesh": {"fsdp": 4, "tensor": 2}},
        {"mesh": {"data": 2, "fsdp": 4}, "lora": {"rank": 8}, "name": "lora"},
    ],
    ids=["full", "lora"],
)
def test_a_run_holds_what_the_plan_says_and_a_restart_compiles_nothing(files, changes):
    said = (process := start(SCRIPT, str(files), json.dumps(changes))).communicate()[0]
    assert process.returncode == 0, said[-3000:]
    found = json.loads(said.splitlines()[-1])
    plan, (fresh, resumed) = found["plan"], found["starts"]
    assert (fresh["steps"], resumed["steps"]) == (1, 2)
    for one in (fresh, resumed):
        # Nothing but frozen weights is there before the state is made or restored: the two are never there at once.
        np.testing.assert_allclose(one["before"], plan["weights"] - plan["trained"], rtol=0.01, atol=1024)
        for moment in ("state", "loop"):
            np.testing.assert_allclose(one[moment], plan["weights"] + plan["optimizer"], rtol=0.01, err_msg=moment)
    if "lora" not in changes:
        assert plan["weights"] + plan["optimizer"] == pytest.approx(12 * plan["weights_of"] / 8, rel=0.01)
    assert fresh["asked"] > fresh["found"]
    assert resumed["asked"] == resumed["found"] > 10
    kept = whole_config(files, **changes)
    assert any((files / "runs" / ".compiled" / kept.name).iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 4])
def test_on_a_restart_every_process_finds_all_of_its_programs(files, rank, tmp_path):
    """Each process has its own temporary directory, as on hosts of their own; both see the runs."""
    changes = {"name": f"two-{rank}", "lora": {"rank": rank}, "mesh": {"fsdp": 2, "tensor": 2}}
    changes["steps"] = {"stop_after": 1}
    for begun in (0, 1):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            there = {"MVJAX_COORDINATOR": f"localhost:{probe.getsockname()[1]}", "MVJAX_PROCESSES": "2"}
        homes = [tmp_path / f"{begun}-{process}" for process in range(2)]
        processes = []
        for process, home in enumerate(homes):
            home.mkdir()
            own = {"MVJAX_PROCESS": str(process), "TMPDIR": str(home), "HOME": str(home)}
            processes.append(start(PROCESS, str(files), json.dumps(changes), devices=2, **there, **own))
        for process, running in enumerate(processes):
            said = running.communicate(timeout=300)[0]
            assert running.returncode == 0, said[-3000:]
            number, step, asked, found = map(int, said.splitlines()[-1].split())
            assert (number, step) == (process, begun + 1)
            if begun:
                assert asked == found > 10, f"process {process}"
            else:
                assert asked > found
