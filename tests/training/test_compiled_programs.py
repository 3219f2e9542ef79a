"""Programs are kept beside the run, in a bucket, too; whole runs and several processes are in test_memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from whole_runs import Programs

from mvjax.errors import UserError
from mvjax.storage import StoragePath
from mvjax.training import compiled_programs as kept
from mvjax.training.compiled_programs import compiled_programs
from mvjax.training.config import TrainConfig


@pytest.fixture
def no_cache():
    """JAX without the compilation cache that the tests have."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


@pytest.fixture
def config(tmp_path):
    return TrainConfig().replace(name="one", output={"directory": f"memory://{tmp_path.name}-{id(tmp_path)}/runs"})


def compile_one(constant=7.5) -> None:
    """A new function each time, of the same program for the same constant."""
    jax.jit(lambda x: jnp.sin(x) * 0.625 + constant)(np.float32(1)).block_until_ready()


def found_at(config) -> dict[str, int]:
    """The programs that are kept, with the times of their last use."""
    place = StoragePath(config.output.directory) / ".compiled" / config.name
    names = {*place.walk()}
    programs = {name.removesuffix(kept.PROGRAM) for name in names if name.endswith(kept.PROGRAM)}
    times = {name.removesuffix(kept.USED) for name in names if name.endswith(kept.USED)}
    assert times <= programs
    return {
        name: int.from_bytes((place / (name + kept.USED)).read_bytes(), "little") for name in times
    } | dict.fromkeys(programs - times, 0)


def test_what_one_start_has_compiled_the_next_finds(config, no_cache):
    programs = Programs()
    settings = jax.config.jax_persistent_cache_min_compile_time_secs
    with compiled_programs(config) as keep:
        compile_one()
        keep()
        found = [*found_at(config)]
    first = programs.take()
    with compiled_programs(config):
        compile_one()
    assert (first, programs.take()) == ((1, 0), (1, 1))
    assert len(found) == 1
    assert found[0].startswith("jit__lambda")
    assert jax.config.jax_compilation_cache_dir is None
    assert jax.config.jax_persistent_cache_min_compile_time_secs == settings


def test_programs_that_nobody_uses_any_more_make_room(config, no_cache, monkeypatch):
    place = StoragePath(config.output.directory) / ".compiled" / config.name
    for constant in (1.5, 2.5):
        with compiled_programs(config):
            compile_one(constant)
    (first, _), (second, used) = sorted(found_at(config).items(), key=lambda entry: entry[1])
    size = (place / (first + kept.PROGRAM)).size()
    (place / (second + kept.USED)).delete()  # as in runs of earlier versions
    (place / (first + kept.USED)).write_bytes((used - 2 * kept.DAY).to_bytes(8, "little"))
    with compiled_programs(config):
        compile_one(1.5)  # used again after two days
    assert found_at(config)[first] > used > found_at(config)[second] == 0
    monkeypatch.setattr(kept, "MOST_BYTES", int(2.5 * size))
    programs = Programs()
    with compiled_programs(config):
        compile_one(3.5)
    assert programs.take() == (1, 0)
    assert len(found_at(config)) == 2
    assert second not in found_at(config)
    with compiled_programs(config):
        compile_one(1.5)
        compile_one(3.5)
    assert programs.take() == (2, 2)


def test_a_place_that_cannot_be_reached_costs_time_alone(config, no_cache, monkeypatch, capsys):
    def away(*_, **__):
        raise UserError("the server is away")

    monkeypatch.setattr(kept, "copy_tree", away)
    with compiled_programs(config) as keep:
        compile_one()
        keep()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("warning: memory://") for line in lines)
    assert all(line.endswith("compiles its programs again (the server is away)") for line in lines)


def test_a_cache_that_jax_has_already_stays(config, no_cache, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    with compiled_programs(config) as keep:
        assert jax.config.jax_compilation_cache_dir == str(tmp_path)
        keep()
    assert not [*StoragePath(config.output.directory).walk()]
