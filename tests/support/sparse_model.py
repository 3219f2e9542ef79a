"""Models of any size that take next to no disk: files with holes, and a few numbers that are really there."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np

from mvjax.models import from_hf
from mvjax.models.tensors import expected_shapes

DTYPE = np.dtype(ml_dtypes.bfloat16)


def marks(name, shape):
    """Flat places of a tensor that hold a number other than 0, and the numbers: first, last and some between."""
    size = int(np.prod(shape, dtype=np.int64))
    rng = np.random.default_rng([*name.encode()])
    places = np.unique([0, size - 1, *rng.integers(0, size, 14)])
    return places, rng.integers(1, 100, len(places)).astype(DTYPE)


def write_sparse_model(directory: Path, config, max_shard_bytes=5 * 10**9):
    """A Hugging Face directory in bfloat16, in shards; zeros but for `marks`. Returns the shapes by name."""
    shapes = expected_shapes(from_hf(config))
    shards, size = [{}], 0
    for name, shape in shapes.items():
        nbytes = int(np.prod(shape, dtype=np.int64)) * DTYPE.itemsize
        if shards[-1] and size + nbytes > max_shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = [size, size + nbytes]
        size += nbytes
    directory.mkdir(parents=True)
    places = {}
    for i, shard in enumerate(shards, start=1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(shard, file)
        header = {name: {"dtype": "BF16", "shape": shapes[name], "data_offsets": span} for name, span in shard.items()}
        text = json.dumps(header).encode()
        with open(directory / file, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            begin = out.tell()
            for name, (start, stop) in shard.items():
                for place, number in zip(*marks(name, shapes[name])):
                    out.seek(begin + start + int(place) * DTYPE.itemsize)
                    out.write(number.tobytes())
                out.truncate(begin + stop)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (directory / "config.json").write_text(json.dumps(config))
    return shapes
