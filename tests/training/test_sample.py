"""Samples during training: what the engine would say, and nothing else changes."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny_weights import tiny_config, tiny_tensors, write_gguf_model
from virtual_devices import xla_flags

from mvjax.errors import UserError
from mvjax.language.tree import parse_tokens
from mvjax.models import LoraConfig, add_lora
from mvjax.models.decode import DecoderStepModel
from mvjax.models.load import load_with_tags
from mvjax.training.model import make_trainable
from mvjax.training.sample import Sampler, tree_lines

PROMPT = "What is 1+1, and 2+2?"
TOKENS = 40


def write_toy(path):
    config = tiny_config(hidden_size=32, intermediate_size=64, max_position_embeddings=512)
    return write_gguf_model(path, config, tiny_tensors(config), kind="F32")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A GGUF file of a model with two layers and a vocabulary of bytes."""
    return write_toy(tmp_path_factory.mktemp("toy") / "toy.gguf")


def load(path, rank=4, placement=None):
    """Tokenizer, shape and model."""
    tokenizer, decoder = load_with_tags(path, placement=placement)
    if rank:
        add_lora(decoder, LoraConfig(rank, tag_ids=tokenizer.tag_ids), seed=1)
    return tokenizer, decoder.config, make_trainable(decoder)


def make_sampler(loaded, directory, said, **options):
    tokenizer, config, model = loaded
    options = {"every": 2, "prompt": PROMPT, "tokens": TOKENS, "rows": 1} | options
    return Sampler(config, model.join, tokenizer, directory, said.append, **options)


@pytest.fixture(scope="module", autouse=True)
def kept_programs():
    """The engine's programs take long to compile: they come from and go to where the other rooms keep theirs."""
    before = jax.config.jax_compilation_cache_dir
    for directory in (os.environ["JAX_COMPILATION_CACHE_DIR"], before):
        jax.config.update("jax_compilation_cache_dir", directory)
        compilation_cache.reset_cache()
        if directory != before:
            yield


@partial(jax.jit, donate_argnums=0)
def learn(params):
    """A step as far as a sampler cares: new parameters in the place of the old ones."""
    return {name: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape) for name, x in params.items()}


def test_samples_come_on_time_and_training_goes_on_as_without_them(toy, tmp_path):
    loaded, said, compiled = load(toy), [], []
    sampler = make_sampler(loaded, tmp_path, said)
    sampled, plain = ({name: jnp.array(x) for name, x in loaded[2].params.items()} for _ in range(2))
    assert not (tmp_path / "samples").exists()
    for step in range(1, 7):
        sampled, plain = learn(sampled), learn(plain)
        if sampler.due(step):
            sampler(step, sampled)
            compiled.append(sampler.compilations)
            assert sampler._engine.params is None  # no copy of the weights stays on the device
    for name, x in plain.items():
        np.testing.assert_array_equal(x, sampled[name])
    assert compiled[0] == compiled[-1] > 0
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"2.txt", "4.txt", "6.txt"}
    heads, texts = [], []
    for number, step in enumerate((2, 4, 6)):
        head, prompt, text = (tmp_path / "samples" / f"{step}.txt").read_text().split("\n\n", 2)
        assert head.startswith(f"step {step}: ")
        assert prompt == PROMPT
        assert said[number].startswith(f"sample at {head}\n")
        assert text.endswith("\n\n" + said[number].partition("\n")[2] + "\n")
        texts.append(text)
        heads.append(head)
    assert len(set(texts)) == 3  # other parameters, other answers
    assert any("finish tokens" in head for head in heads)


@pytest.mark.parametrize("rank", [4, 0])
def test_engine_gets_the_weights_of_the_moment(toy, tmp_path, rank):
    loaded = load(toy, rank)
    sampler = make_sampler(loaded, tmp_path, [])
    params = {name: jnp.array(x) for name, x in loaded[2].params.items()}
    for _ in range(2):
        params = learn(params)
        expected = DecoderStepModel(loaded[2].join(params)).params
        jax.tree.map(np.testing.assert_array_equal, sampler._weights(params), expected)


def test_autoregressive_form_opens_no_block(toy, tmp_path):
    loaded = load(toy)
    sampler = make_sampler(loaded, tmp_path, [], form="autoregressive", tokens=60)
    sampler(2, loaded[2].params)
    text = (tmp_path / "samples" / "2.txt").read_text()
    assert "# parallel 1.000" in text
    assert not any(tag in text for tag in ("<Parallel>", "<Path>"))


def test_several_processes_say_once_that_there_are_no_samples(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    said = []
    sampler = make_sampler(load(toy), tmp_path, said)
    assert not any(sampler.due(step) for step in range(10))
    assert said == ["sample: none is generated in a run of several processes"]
    assert not any(make_sampler(load(toy), tmp_path, said, every=0).due(step) for step in range(10))
    assert len(said) == 1


def test_prompt_that_does_not_fit_is_a_mistake_before_training(toy, tmp_path):
    with pytest.raises(UserError, match=r"sample: prompt 0 ends at position .* beyond the model's 512"):
        make_sampler(load(toy), tmp_path, [], tokens=500)


def test_devices_without_room_end_the_samples_not_the_run(toy, tmp_path):
    loaded, said = load(toy), []
    sampler = make_sampler(loaded, tmp_path, said)

    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out\nof memory")

    sampler._take = full
    sampler(2, loaded[2].params)
    assert said == ["sample: no more of them (RESOURCE_EXHAUSTED: out of memory)"]
    assert not sampler.due(4)
    assert not (tmp_path / "samples").exists()


RESPONSE = (
    "Let's think.\n<Parallel>\n<Goal>\n<Outline>\n1: Add one.\n</Outline>\n<Outline>\n2: Add two.\n</Outline>\n"
    "</Goal>\n<Path>\n1: So:\n<Parallel>\n<Goal>\n<Outline>\n1.1: Deep.\n</Outline>\n</Goal>\n"
    "<Path>\n1.1: \x1b[31mRed.\n</Path>\n<Conclusion>\nTwo.\n</Conclusion>\n</Parallel>\nThen this.\n</Path>\n"
    "<Path>\n2: {long}\n</Path>\n"
)


def test_tree_of_a_cut_transcript(toy):
    tokenizer, _, _ = load(toy, rank=0)
    tables = tokenizer.tables()
    ids = np.array(tokenizer.encode_response(RESPONSE.replace("{long}", "x" * 200)))
    transcript = parse_tokens(ids.tolist(), tables.codes[ids], tables.colon[ids])
    assert tree_lines(transcript, tokenizer.decode, width=40) == [
        "Let's think.",
        "block of 2 paths (open)",
        "  goal",
        "    outline 1: Add one.",
        "    outline 2: Add two.",
        "  path 1: So:",
        "    block of 1 path",
        "      goal",
        "        outline 1.1: Deep.",
        "      path 1.1: \N{REPLACEMENT CHARACTER}[31mRed.",
        "      conclusion Two.",
        "    Then this.",
        "  path 2: " + "x" * 32 + "...",
    ]


ON_A_MESH = """
import sys
from pathlib import Path
import jax, numpy as np
from test_sample import load, make_sampler
from mvjax.training.config import MeshConfig
from mvjax.training.mesh import make_placement
assert jax.device_count() == 4
placement = make_placement(MeshConfig(fsdp=2, tensor=2))
for rank in (4, 0):
    alone, spread = load(Path(sys.argv[1]), rank), load(Path(sys.argv[1]), rank, placement)
    model = spread[2]
    params = {name: jax.device_put(x, model.sharding(placement, name)) for name, x in model.params.items()}
    assert any(not x.is_fully_replicated for x in params.values())
    expected = make_sampler(alone, Path(), [])._weights(alone[2].params)
    found = make_sampler(spread, Path(), [])._weights(params)
    assert {x.sharding.num_devices for x in jax.tree.leaves(found)} == {1}
    jax.tree.map(np.testing.assert_array_equal, found, expected)
"""


@pytest.mark.slow
def test_parameters_spread_over_a_mesh_are_gathered(toy):
    root, here = Path(__file__).parents[2], Path(__file__).parent
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(4),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, (root, root / "kernels", here, here.parent / "support"))),
    }
    command = [sys.executable, "-c", ON_A_MESH, str(toy)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
