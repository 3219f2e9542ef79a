"""`mvjax plan` from the command line's side: what it prints, its exit status, and every mistake one line."""

import importlib.util
import json

import pytest
from tiny_plans import made_up

from mvjax.cli.main import main
from mvjax.planning import advice, generation, machines, plan
from mvjax.planning.program import Compiled

MODEL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
PRESET = """
from mvjax.training.config import TrainConfig
topology = "cpu:1"
config = TrainConfig(name="tiny").replace(model={"path": "tiny"}, data={"rows": 4, "row_length": 32})
"""
MIB = 2**20


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a preset, and a model of which only config.json is here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(MODEL))
    (tmp_path / "preset.py").write_text(PRESET)
    return tmp_path


@pytest.fixture
def needs(monkeypatch):
    """What steps need is made up: a function of the configuration."""

    def set_needs(of) -> list:
        seen = []

        def plan_step(step):
            seen.append(step.config)
            return made_up(step, of(step.config))

        for module in (plan, advice):
            monkeypatch.setattr(module, "plan_step", plan_step)
        return seen

    return set_needs


def error(capsys) -> str:
    """The one line of a mistake."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


def test_a_step_that_fits(place, needs, capsys):
    seen = needs(lambda config: MIB)
    assert main(["plan", "preset.py", "--data.rows", "2"]) == 0
    printed = capsys.readouterr()
    assert "tiny: tiny, 0.0" in printed.out
    assert "  fits: " in printed.out
    assert printed.err == "compiling the step of tiny for cpu:1, 1 chip\n"
    assert [config.data.rows for config in seen] == [2]


def test_json(place, needs, capsys):
    needs(lambda config: MIB)
    assert main(["plan", "preset.py", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fits"]
    assert data["hbm"]["total"] == MIB
    # Without a tokenizer the tags get rows of their own.
    assert data["parameters"] == 2 * (64 + 12) * 32 + 32 + 2 * (32 * (2 * 32 + 2 * 16 + 3 * 48) + 64 + 2 * 32)


def test_a_step_that_does_not_fit(place, needs, capsys):
    seen = needs(lambda config: MIB if config.model.remat == "full" else 2**60)
    assert main(["plan", "preset.py"]) == 2
    printed = capsys.readouterr()
    assert "DOES NOT FIT" in printed.out
    assert "The nearest change that fits: --model.remat full" in printed.out
    assert "trying --model.remat full" in printed.err
    assert len(seen) == 2


def test_no_tries(place, needs, capsys):
    seen = needs(lambda config: 2**60)
    assert main(["plan", "preset.py", "--tries", "0"]) == 2
    assert "nearest" not in capsys.readouterr().out
    assert len(seen) == 1


def test_help(capsys):
    assert main(["plan", "--help"]) == main(["plan"]) == 0
    assert "--topology CHIPS" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology", "v9:2x2"], "the chip must be one of v4, v5e"),
        (["--topology", "v5p"], "a v5p slice has 3 dimensions, as in v5p:4x4x8"),
        (["--topology", "v5e:4x4x4"], "a v5e slice has 2 dimensions"),
        (["--topology", "v5e:0x4"], "a v5e slice has 2 dimensions"),
        (["--topology", "v5e:32x32"], "a v5e slice has at most 256 chips"),
        (["--topology", "h100:0"], "GPUs are counted, as in h100:8"),
        (["--topology", "h100:12"], "beyond one host in steps of 8"),
        (["--topology", "h100:16", "--mesh.slices", "2"], "slices are of TPUs"),
        (["--topology", "cpu:3"], "the processor stands for 1 device; XLA_FLAGS"),
        (["--topology", "cpu:some"], "a processor's devices are counted, as in cpu:1"),
        (["--topology"], "--topology needs a value"),
        (["--topology", "--json"], "--topology needs a value"),
        (["--tries", "-1"], "--tries needs a whole number, not '-1'"),
        (["--mesh.fsdp", "3"], "= 3 chips, but there are 1"),
        (["--foo", "3"], "there is no field --foo"),
        (["--mesh.fdsp", "3"], "did you mean --mesh.fsdp?"),
        (["--fsdp", "3"], "--fsdp is now --mesh.fsdp"),
        (["--data.rows", "many"], "--data.rows many: the value must be a whole number, 1 or more"),
        (["--data.rows", "0"], "data.rows = 0 must be a whole number, 1 or more"),
        (["--model.path", "shape:qwen9"], "shape:qwen9 is not known; there are "),
        (
            ["--model.path", "nowhere"],
            "nowhere: not found; give --model.path a model's directory, or a published shape",
        ),
        (["--model.attention", "tpu"], "model.attention = 'tpu' does not run on cpu:1"),
        (["--slots", "64"], "--slots goes with --generate"),
        (["--generate", "--requests", "0"], "requests"),
        (["--tensor-parallel", "1"], "--tensor-parallel goes with --generate"),
        (["--kv-dtype", "int8"], "--kv-dtype goes with --generate"),
        (["--generate", "--weight-dtype", "int3"], "weight dtype int3: use one of auto, float32, bfloat16, int8, fp8"),
        (["--generate", "--weight-dtype", "fp8"], "weight dtype fp8: processors do not compute with it; use int8"),
        (["--generate", "--tensor-parallel", "2"], "tensor parallel 2: cpu:1 has 1 chip"),
        (["--generate", "--tensor-parallel", "0"], "cannot be shared by 0 devices; 1, 2, 4 can be"),
        (["--generate", "--slots", "0"], "--slots = 0 must be a whole number, 1 or more"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes_are_one_line_and_status_2(place, capsys, words, message):
    assert main(["plan", "preset.py", *words]) == 2
    assert message in error(capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("config = 3", "has no `config = TrainConfig(...)`"),
        ("a transcript, say", "is no valid configuration"),
        (
            PRESET.replace('"rows": 4', '"lines": 4'),
            "is no valid configuration: DataConfig got an unexpected keyword argument 'lines'",
        ),
        (PRESET.replace('"cpu:1"', '""'), "names no topology; give --topology"),
        (PRESET.replace('"cpu:1"', "8"), "topology = 8 must be a string"),
    ],
)
def test_presets_that_are_none(place, capsys, text, message):
    (place / "other.py").write_text(text)
    assert main(["plan", "other.py"]) == 2
    assert "other.py: " + message in error(capsys)


def test_no_preset(place, capsys):
    assert main(["plan", "absent.py"]) == 2
    assert "absent.py: cannot be read" in error(capsys)
    assert main(["plan", "--json"]) == 2
    assert "the configuration comes first" in error(capsys)


def test_a_model_that_is_none(place, capsys):
    (place / "tiny" / "config.json").write_text("{")
    assert main(["plan", "preset.py"]) == 2
    assert "tiny/config.json: is no JSON" in error(capsys)


def test_without_the_compilers(place, capsys, monkeypatch):
    machines.tpu_slice.cache_clear()
    machines.gpus.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", "preset.py", "--topology", "v5e:2x2"]) == 2
    assert "takes libtpu, which is not installed: pip install 'mvjax[aot]'" in error(capsys)

    def refuse(**_):
        raise NotImplementedError("topology not implemented for cuda")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", refuse)
    assert main(["plan", "preset.py", "--topology", "h100:8"]) == 2
    assert "takes JAX's CUDA plugin: pip install 'mvjax[aot]' (topology not" in error(capsys)


def test_generation(place, capsys, monkeypatch):
    monkeypatch.setattr(generation, "compile_on", lambda *_: Compiled(1.0, "", MIB, 0, MIB, 7))
    assert main(["plan", "preset.py", "--generate", "--requests", "2", "--slots", "256", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["load"] == {"requests": 2, "max_branches": 8, "slots": 256}
    hbm = data["hbm"]
    assert sum(hbm[kind] for kind in ("weights", "pages", "state", "rest", "code")) == hbm["total"] == 2 * MIB + 7
    assert (data["chips"], data["tensor_parallel"]) == (1, 1)
    # Two requests of two pages of 128, and the page that free rows write to; 2 layers, 2 heads of 8, float32.
    assert hbm["pages"] == 2 * (1 + 4) * 2 * 2 * 128 * 8 * 4
    assert hbm["weights"] == 4 * data["parameters"]


def test_a_smaller_load_is_found(place, capsys, monkeypatch):
    totals = iter((2**60, 2**60, MIB))
    monkeypatch.setattr(generation, "compile_on", lambda *_: Compiled(1.0, "", 0, 0, next(totals), 0))
    assert main(["plan", "preset.py", "--generate"]) == 2
    printed = capsys.readouterr()
    assert "DOES NOT FIT" in printed.out
    assert "The nearest load that fits: --requests 1 --slots 4096" in printed.out
    assert "trying --requests 2" in printed.err


def test_no_smaller_load(place, capsys, monkeypatch):
    monkeypatch.setattr(generation, "compile_on", lambda *_: Compiled(1.0, "", 0, 0, 2**60, 0))
    assert main(["plan", "preset.py", "--generate", "--tries", "2"]) == 2
    assert "None of 2 smaller loads fits" in capsys.readouterr().out
