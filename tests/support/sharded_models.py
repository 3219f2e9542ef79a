"""Programs that load and export models on meshes; the tests run them in processes of their own, with 8 devices."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from virtual_devices import xla_flags

from mvjax.errors import UserError
from mvjax.models import Decoder, export, from_hf, load_checkpoint, sharded_loading, to_hf, transfer
from mvjax.models.placement import MESH_AXES, Placement
from mvjax.models.tensors import hf_names, is_stacked
from mvjax.storage import StoragePath
from mvjax.weights import Checkpoint

ROOT = Path(__file__).parents[2]


def start(call, devices, *arguments):
    """Start `call(*arguments)` of this module in a new process."""
    code = f"import sys, sharded_models; sharded_models.{call}(*map(eval, sys.argv[1:]))"
    paths = [ROOT, ROOT / "kernels", ROOT / "tests" / "support", os.environ.get("PYTHONPATH", "")]
    # What malloc keeps for later is not in use.
    sparing = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = (
        os.environ
        | (sparing if call == "memory" else {})
        | {
            "XLA_FLAGS": xla_flags(devices),
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
        }
    )
    command = [sys.executable, "-c", code, *map(repr, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    """What a process of `start` printed last, as JSON."""
    out, errors = process.communicate()
    assert process.returncode == 0, errors[-3000:]
    return json.loads(out.strip().splitlines()[-1])


def abstract(hf_config, mesh=None, *, dtype="float32", scan_layers=True):
    """Configuration, abstract state and shardings (None without a mesh, its sizes) of a decoder."""
    config = from_hf(hf_config, scan_layers=scan_layers)
    state = nnx.state(nnx.eval_shape(lambda: Decoder(config, param_dtype=dtype, rngs=nnx.Rngs(params=0))))
    if mesh is None:
        return config, state, None
    placement = Placement(Mesh(np.array(jax.devices()).reshape(mesh), MESH_AXES))
    shardings = nnx.map_state(lambda _, variable: variable.replace(placement.sharding(variable.axes)), state)
    return config, state, shardings


def check_parts(state, config, tensors):
    """Whether what the devices of this process hold is what a checkpoint has."""
    for path, array in sharded_loading.flattened(state).items():
        names = hf_names(path, config)
        for part in array.addressable_shards:
            found = np.asarray(part.data)
            stacked = is_stacked(path, config)
            index = part.index[1:] if stacked else part.index
            wanted = np.stack([tensors[name][index].astype(array.dtype) for name in names])
            np.testing.assert_array_equal(found, wanted if stacked else wanted[0], err_msg=str(path))


def counted_reads():
    """A list that grows by the bytes of every read from a file of weights."""
    reads, read_into = [], StoragePath.read_into

    def counting(path, out, start):
        reads.append(len(out))
        read_into(path, out, start)

    StoragePath.read_into = counting
    return reads


def meshes(directory, cases):
    """Load a model on meshes: (sizes, type, scanned, piece, processes that the devices are told to belong to)."""
    checkpoint = load_checkpoint(Path(directory))
    tensors = dict(checkpoint.tensors)
    for mesh, dtype, scan_layers, piece, processes in cases:
        transfer.CHUNK_BYTES = piece
        transfer.process_of = lambda device, size=8 // processes: device.id // size
        config, state, shardings = abstract(checkpoint.config, mesh, dtype=dtype, scan_layers=scan_layers)
        loaded = sharded_loading.load_sharded(checkpoint, state, shardings, config=config)
        places = sharded_loading.flattened(shardings)
        for path, array in sharded_loading.flattened(loaded).items():
            assert array.sharding == places[path]
        check_parts(loaded, config, tensors)
        back = export.gathered(loaded, config)
        assert set(back) == set(tensors)
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(back[name], tensor.astype(dtype), err_msg=name)
    print(json.dumps("equal"))


def half(directory, meshes):
    """For each mesh: the share of a model's bytes read for the first 4 of 8 devices alone; they must get theirs."""
    checkpoint, reads = load_checkpoint(Path(directory)), counted_reads()
    print(json.dumps([share_of_half(checkpoint, reads, mesh) for mesh in meshes]))


def share_of_half(checkpoint, reads, mesh):
    config, state, shardings = abstract(checkpoint.config, mesh, dtype="bfloat16")
    places, entries, total = sharded_loading.flattened(shardings), checkpoint.tensors.entries, 0
    for path, leaf in sharded_loading.flattened(state).items():
        names = hf_names(path, config)
        stacked = is_stacked(path, config)
        parameter = sharded_loading.Parameter(leaf.shape, leaf.dtype, [entries[name] for name in names], places[path])
        parts, shard = transfer.parts_of(places[path], leaf.shape)
        mine = {device: index for device, index in parts.items() if device.id < 4}
        for layer in range(shard[0] if stacked else 1):
            del reads[:]
            read = parameter.read(mine, layer, 0, shard[int(stacked)])
            total += sum(reads)
            for device, index in mine.items():
                wanted = checkpoint.tensors[names[layer]][index[int(stacked) :]]
                np.testing.assert_array_equal(read[device], wanted)
    return total / checkpoint.nbytes


def memory(directory, mesh, dtype, target=None):
    """Most bytes of host memory that loading a model, and then exporting it, take beside its arrays."""
    from sparse_model import marks, write_sparse_model
    from tiny_weights import tiny_config

    def resident(kind):
        return 1024 * int(re.search(rf"{kind}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    def load(path):
        checkpoint = load_checkpoint(path)
        config, state, shardings = abstract(checkpoint.config, mesh, dtype=dtype)
        loaded = sharded_loading.load_sharded(checkpoint, state, shardings, config=config)
        return checkpoint, config, jax.block_until_ready(loaded)

    # What the compiler and the libraries keep is none of the model's.
    warm = Path(directory).with_name("warm")
    write_sparse_model(warm, tiny_config("qwen2", tied=False, vocab_size=256, num_attention_heads=16))
    checkpoint, config, loaded = load(warm)
    export.save_checkpoint(warm.with_name("exported"), Checkpoint(checkpoint.config, export.gathered(loaded, config)))
    del loaded
    before = resident("VmRSS")
    checkpoint, config, loaded = load(Path(directory))
    arrays = sum(part.data.nbytes for array in jax.tree.leaves(loaded) for part in array.addressable_shards)
    loading, exporting = resident("VmHWM") - before - arrays, 0
    if target:
        export.save_checkpoint(Path(target), Checkpoint(checkpoint.config, export.gathered(loaded, config)))
        exporting = resident("VmHWM") - before - arrays
    for path, array in sharded_loading.flattened(loaded).items():
        for layer, name in enumerate(hf_names(path, config)):
            shape = checkpoint.tensors.entries[name].shape
            for place, number in zip(*marks(name, shape)):
                index = ((layer,) if is_stacked(path, config) else ()) + np.unravel_index(place, shape)
                assert value_at(array, index) == number, (name, index)
    largest = max(entry.nbytes for entry in checkpoint.tensors.entries.values())
    sizes = {"largest": largest, "arrays": arrays, "checkpoint": checkpoint.nbytes}
    print(json.dumps({"loading": loading, "exporting": exporting, **sizes}))


def value_at(array, index):
    """One number of an array, without a program for each place."""
    for part in array.addressable_shards:
        spans = [span.indices(size) for span, size in zip(part.index, array.shape)]
        if all(first <= i < last for i, (first, last, _) in zip(index, spans)):
            return np.asarray(part.data)[tuple(i - first for i, (first, _, _) in zip(index, spans))]
    raise AssertionError(f"no device holds {index}")


def export_tagged(model, target, mesh):
    """Give a model the control tags, load it on a mesh and export it, tokenizer and all, in shards."""
    from mvjax.tokenizers import load_tokenizer
    from mvjax.weights import with_tag_rows

    checkpoint, tokenizer = with_tag_rows(load_checkpoint(Path(model)), load_tokenizer(Path(model)))
    config, state, shardings = abstract(checkpoint.config, mesh)
    loaded = sharded_loading.load_sharded(checkpoint, state, shardings, config=config)
    hf_config = to_hf(config) | {"torch_dtype": "float32"}
    exported = Checkpoint(hf_config, export.gathered(loaded, config), generation=checkpoint.generation)
    export.save_checkpoint(Path(target), exported, tokenizer=tokenizer, max_shard_bytes=300_000)
    print(json.dumps(len(exported.tensors)))


def processes(directory, targets, mesh, address, number):
    """One of two processes of 4 devices: load a model, export it, export it to where it cannot be written."""
    jax.distributed.initialize(address, 2, number)
    checkpoint, reads = load_checkpoint(Path(directory)), counted_reads()
    config, state, shardings = abstract(checkpoint.config, mesh, dtype="bfloat16")
    loaded = sharded_loading.load_sharded(checkpoint, state, shardings, config=config)
    share = sum(reads) / checkpoint.nbytes
    check_parts(loaded, config, dict(checkpoint.tensors))
    exported = Checkpoint(checkpoint.config, export.gathered(loaded, config)).astype("float32")
    export.save_checkpoint(Path(targets[0]), exported, max_shard_bytes=300_000)

    def full(name, nbytes):
        raise UserError(f"no room for {name}")

    try:
        export.save_checkpoint(Path(targets[1]), exported, progress=full)
        message = None
    except UserError as error:
        message = str(error)
    print(json.dumps({"share": share, "message": message}))
