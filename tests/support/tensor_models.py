"""Engines of small models on one and on several devices: programs for processes of their own, with 8 devices."""

import contextlib
import dataclasses
import gc
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from played_steps import play, streams_of, transcripts
from random_requests import TABLES, VOCABULARY, limits_of, random_prompt, random_rules
from tiny_weights import conditioned, tiny_config, tiny_tensors
from virtual_devices import xla_flags

from mvjax.engine import Engine, EngineConfig, SamplingParams, engine_over
from mvjax.engine.program_cache import PreemptKey
from mvjax.evaluation.consistency import RecordingModel
from mvjax.models import DecoderStepModel, TensorParallelModel, transfer
from mvjax.models.copies import copies
from mvjax.models.load import step_model
from mvjax.models.sharded_loading import Parameter
from mvjax.models.tensors import parameter_count
from mvjax.weights import Checkpoint

ROOT = Path(__file__).parents[2]
ENDLESS = dataclasses.replace(TABLES, eos_ids=())
"""Without an end of text, which would end most random transcripts before their first block."""
SIZES = {"requests": 2, "max_branches": 4, "row_counts": (8,), "max_slots": 384}
PAGE = 16


def run(call, *arguments, **options):
    """`call(*arguments, **options)` of this module in a process with 8 devices: what it printed last, as JSON."""
    code = f"import sys, tensor_models; tensor_models.{call}(*map(eval, sys.argv[1:]), **{options!r})"
    paths = [ROOT, ROOT / "kernels", ROOT / "tests" / "support", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "XLA_FLAGS": xla_flags(8),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [sys.executable, "-c", code, *map(repr, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def checkpoint(family, kv_heads, **changes):
    """Eight heads; the vocabulary is one token longer than the tables', and splits over no number of devices."""
    sizes = {
        "vocab_size": VOCABULARY + 1,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 8,
        "num_key_value_heads": kv_heads,
        "head_dim": 8,
        "max_position_embeddings": 4096,
    }
    hf_config = tiny_config(family, tied=family == "qwen3", **sizes | changes)
    return Checkpoint(hf_config, conditioned(tiny_tensors(hf_config)))


def requests(count):
    """Prompts, limits and samplings; every second request may take many tokens, and so open blocks."""
    rng, made = np.random.default_rng(8), []
    for seed in range(count):
        prompt, limits = random_prompt(rng), limits_of(random_rules(rng))
        more = {"max_new_tokens": 320, "max_positions": None, "max_depth": 3}
        few = {"max_new_tokens": min(limits.max_new_tokens, 150), "max_positions": None}
        limits = dataclasses.replace(limits, **(more if seed % 2 else few))
        made.append((prompt, limits, SamplingParams(temperature=4.0 if seed % 5 else 0.0, seed=seed)))
    return map(list, zip(*made))


def engine_of(model, **sizes):
    """An engine of two requests at a time."""
    return Engine(model, model.params, ENDLESS, EngineConfig(**SIZES, **sizes))


def answers(engine, count):
    """Tokens of each answer, and how many have blocks."""
    prompts, limits, samplings = requests(count)
    results = engine.generate(prompts, limits=limits, sampling=samplings)
    assert not [result.error for result in results if result.reason == "failed"]
    return [result.tokens.tolist() for result in results], sum(len(result.parent) > 1 for result in results)


def played(family, kv_heads, devices, unroll, page_size, count, **formats):
    """Random transcripts, several rows a step, on one device and on several: logits, and where what lies."""
    made = checkpoint(family, kv_heads)
    one = DecoderStepModel.from_checkpoint(made, page_size=page_size if formats else "auto", **formats)
    model = TensorParallelModel.from_checkpoint(made, devices, unroll=unroll, page_size=page_size, **formats)
    layouts = transcripts(count)
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, one.vocab_size, len(layout.segment)).astype(np.int32) for layout in layouts]
    logits, others = (
        np.stack([row for found in play(each, layouts, tokens) for row in found.values()]) for each in (one, model)
    )
    own = sum(leaf.addressable_shards[-1].data.size for leaf in jax.tree.leaves(model.params))
    kv = jax.tree.leaves(streams_of(model, count))[0]
    cache = engine_of(model, pages=9)._cache
    cache.allocate()
    report = {
        "same": (logits.argmax(axis=1) == others.argmax(axis=1)).tolist(),
        "error": float(np.abs(logits - others).max() / np.abs(logits).max()),
        "parameters": [own, parameter_count(model.split.local)],
        "heads": [kv.shape[-3], kv.addressable_shards[0].data.shape[-3]],
        "replicated": all(
            leaf.is_fully_replicated and len(leaf.sharding.device_set) == devices
            for leaf in jax.tree.leaves((cache.state, cache.kv if page_size is None else ()))
            if leaf.ndim < 4
        ),
    }
    print(json.dumps(report))


def recorded(family, kv_heads, devices, count):
    """Random requests on one device and on several: same tokens, and how far the logits that they were drawn from
    differ."""
    made = checkpoint(family, kv_heads)
    engines = [engine_of(RecordingModel(step_model(made, tensor_parallel=size))) for size in (1, devices)]
    (wanted, blocks), (found, _) = (answers(engine, count) for engine in engines)
    logits, others = (np.asarray(engine.kv[1]) for engine in engines)
    error = float(np.abs(logits - others).max() / np.abs(logits).max())
    print(json.dumps({"same": wanted == found, "blocks": blocks, "error": error}))


def many(family, kv_heads, count, **formats):
    """Random requests on one device, and on 2, 4 and 8 over contiguous streams and over few pages; where number formats
    are given, on 8 over few pages."""
    made, report = checkpoint(family, kv_heads), []
    pages = {"page_size": PAGE} if formats else {}
    wanted, blocks = answers(engine_of(DecoderStepModel.from_checkpoint(made, **pages, **formats)), count)
    for devices in (8,) if formats else (2, 4, 8):
        for page_size, sizes in ((PAGE, {"pages": 30}),) if formats else ((None, {}), (PAGE, {"pages": 30})):
            model = TensorParallelModel.from_checkpoint(made, devices, page_size=page_size, **formats)
            engine = engine_of(model, **sizes)
            found, _ = answers(engine, count)
            preempted = any(isinstance(key, PreemptKey) for key in engine._programs)
            differ = [number for number, (a, b) in enumerate(zip(wanted, found)) if a != b]
            report.append({"devices": devices, "paged": bool(page_size), "preempted": preempted, "differ": differ})
    print(json.dumps({"blocks": blocks, "runs": report}))


def replicated(family, kv_heads, devices, count):
    """Random requests on one device, and on groups of several with the whole model each, behind one queue."""
    made = checkpoint(family, kv_heads)
    wanted, _ = answers(engine_of(DecoderStepModel.from_checkpoint(made)), count)
    model = step_model(made, tensor_parallel=devices)
    engines = engine_over(copies(model, 8 // devices), ENDLESS, EngineConfig(**SIZES))
    found, _ = answers(engines, count)
    places = [sorted(device.id for device in jax.tree.leaves(each.kv)[0].devices()) for each in engines.engines]
    served = [engine.stats().generation_tokens for engine in engines.engines]
    print(json.dumps({"same": wanted == found, "places": places, "served": served}))


def loading(family, kv_heads, devices, unroll, **formats):
    """Most bytes that a device holds while a model is loaded in chunks, over its part of the weights; whether it got
    the numbers that a loading at once gives it."""
    made = checkpoint(family, kv_heads, hidden_size=128, intermediate_size=256, vocab_size=1000)
    at_once = TensorParallelModel.from_checkpoint(made, devices, unroll=unroll, **formats)
    whole = sum(leaf.nbytes for leaf in jax.tree.leaves(DecoderStepModel.from_checkpoint(made, **formats).params))
    # Copies: NumPy's views would keep the arrays.
    wanted = [[np.array(part.data) for part in leaf.addressable_shards] for leaf in jax.tree.leaves(at_once.params)]
    del at_once
    gc.collect()  # The models above are in cycles.
    held, put = [], Parameter.put

    def watched(self, *arguments):
        placed = put(self, *arguments)
        parts = [part for array in jax.live_arrays() for part in array.addressable_shards]
        own = [part.data for part in parts if part.device == jax.devices()[devices - 1]]
        # An array and its parts lie in the same buffers.
        held.append(sum({data.unsafe_buffer_pointer(): data.nbytes for data in own}.values()))
        return placed

    transfer.CHUNK_BYTES, Parameter.put = 4096, watched
    model = TensorParallelModel.from_checkpoint(made, devices, unroll=unroll, **formats)
    found = [[np.asarray(part.data) for part in leaf.addressable_shards] for leaf in jax.tree.leaves(model.params)]
    same = all(np.array_equal(a, b) for x, y in zip(wanted, found, strict=True) for a, b in zip(x, y, strict=True))
    print(json.dumps({"most": max(held) * devices / whole, "puts": len(held), "same": same}))


def verbs(*commands):
    """Exit status and standard output of each command."""
    from mvjax.cli.main import main

    found = []
    for words in commands:
        with contextlib.redirect_stdout(io.StringIO()) as output:
            status = main([str(word) for word in words])
        found.append((status, output.getvalue()))
    print(json.dumps(found))
