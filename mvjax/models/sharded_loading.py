"""Weights from files straight into the arrays of a model, wherever these lie; the host holds a few chunks at a time.

Each process reads what its own devices hold. Files keep a matrix row by row, so a split of its columns over several
processes would make each of them read every row: there each device reads some rows whole, and the devices exchange
columns among themselves.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Sharding

from mvjax.errors import UserError
from mvjax.models.config import ModelConfig
from mvjax.models.tensors import check_tensors, hf_names
from mvjax.models.transfer import Index, chunk_bytes, compiler_options, inserter, parts_of, reading_place, zeros
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, cast, lazily

Path = tuple[Any, ...]


def load_sharded(
    checkpoint: Checkpoint,
    state: nnx.State | Mapping[Path, Any],
    shardings: nnx.State | Mapping[Path, Sharding] | Sharding | None = None,
    *,
    config: ModelConfig,
    progress: Callable[[str, int], None] | None = None,
) -> Any:
    """The parameters of a decoder, read from a checkpoint into arrays of the given shapes, types and shardings.

    Beside the arrays, a process holds a few chunks of an eighth of the largest tensor, or of CHUNK_BYTES if that is
    less. Where there are several processes, all call this with the same arguments.

    Args:
        state: abstract parameters of a Decoder of `config`: an NNX state, or a dictionary by path.
        shardings: of the same form as `state`; one for all; or None: what the leaves of `state` say, else the default
            device, as `jnp.asarray` has it. A sharding over several devices is a `NamedSharding`.
        progress: called with name and bytes of each of the checkpoint's tensors when it is in place.

    Returns `state` with arrays for leaves. Raises UserError where tensors are missing, superfluous, misshapen or no
    floating-point numbers.
    """
    leaves = flattened(state)
    if shardings is None or isinstance(shardings, Sharding):
        places = {path: shardings or getattr(leaf, "sharding", None) for path, leaf in leaves.items()}
    else:
        places = flattened(shardings)
    entries = lazily(checkpoint.tensors)
    names = {path: hf_names(path, config) for path in leaves}
    check_tensors(checkpoint)
    check_floating(checkpoint, {name: entries[name] for group in names.values() for name in group})
    limit = chunk_bytes(max(entries[name].nbytes for group in names.values() for name in group))
    arrays = {}
    for path, leaf in leaves.items():
        tensors = [cast(name, entries[name], np.dtype(leaf.dtype)) for name in names[path]]
        parameter = Parameter(tuple(leaf.shape), np.dtype(leaf.dtype), tensors, places[path])

        def done(i: int, names: list[str] = names[path]) -> None:
            if progress is not None:
                progress(names[i], entries[names[i]].nbytes)

        arrays[path] = parameter.load(limit, done)
    if not isinstance(state, nnx.State):
        return arrays
    return nnx.map_state(lambda path, variable: variable.replace(arrays[path]), state)


def check_floating(checkpoint: Checkpoint, entries: Mapping[str, LazyTensor]) -> None:
    """UserError where a tensor of a checkpoint holds no floating-point numbers."""
    for name, entry in entries.items():
        if not jnp.issubdtype(entry.dtype, jnp.floating):
            what = f"{checkpoint.source or 'the model'}: {name} holds {entry.dtype} numbers"
            raise UserError(f"{what}; use a model with floating-point weights")


def flattened(tree: nnx.State | Mapping[Path, Any]) -> dict[Path, Any]:
    """Values by path."""
    if not isinstance(tree, nnx.State):
        return dict(tree)
    leaves = dict(nnx.to_flat_state(tree))
    return {path: leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf for path, leaf in leaves.items()}


@dataclass(frozen=True)
class Parameter:
    """A parameter that is to be read."""

    shape: tuple[int, ...]
    """Its whole shape."""
    dtype: np.dtype
    """Its element type."""
    tensors: Sequence[LazyTensor]
    """Of that type: the parameter itself, or its layers, which are stacked along its first axis."""
    sharding: Sharding | None
    """Where it lies; None: on the default device."""

    @property
    def lead(self) -> int:
        """Axes before those of a tensor: 1 where layers are stacked."""
        return len(self.shape) - len(self.tensors[0].shape)

    def load(self, limit: int, done: Callable[[int], None]) -> jax.Array:
        """The array, with about `limit` bytes at a time on their way to the devices; `done(i)` follows tensor i."""
        lead, home = self.lead, self.sharding
        parts, shard = parts_of(home, self.shape)
        layers, nbytes = shard[0] if lead else 1, math.prod(shard) * self.dtype.itemsize * len(parts)
        source = reading_place(home, self.shape, lead)
        if nbytes <= limit and source == home:
            arrays = {device: np.empty(shard, self.dtype) for device in parts}
            for layer in range(layers):
                for device, chunk in self.read(parts, layer, 0, shard[lead]).items():
                    arrays[device][(layer,) * lead] = chunk
                self.report(parts, layer, done)
            return self.put(arrays, shard, home)
        parts, shard = parts_of(source, self.shape)
        rows, step = shard[lead], self.step(limit)
        whole, insert = zeros(self.shape, self.dtype, home), inserter(home, source, compiler_options())
        for layer in range(layers):
            for start in range(0, rows, step):
                start = min(start, rows - step)  # the last chunk is as long as the others: one program does for all
                arrays = self.read(parts, layer, start, step)
                jax.block_until_ready(whole)  # the chunk before this one has arrived
                chunk = self.put(arrays, (*(1,) * lead, step, *shard[lead + 1 :]), source)
                whole = insert(whole, chunk, np.array([layer, start][1 - lead :], np.int32))
            self.report(parts, layer, done)
        # Two programs that exchange columns must not be under way at once: processes may run them in another order.
        return jax.block_until_ready(whole)

    def step(self, limit: int) -> int:
        """Rows of each part that a chunk has, which goes into the parameter by `transfer.inserter`."""
        lead = self.lead
        parts, shard = parts_of(self.sharding, self.shape)
        nbytes = math.prod(shard[lead:]) * self.dtype.itemsize * len(parts)
        rows = parts_of(reading_place(self.sharding, self.shape, lead), self.shape)[1][lead]
        return -(-rows // -(-nbytes // limit))

    def read(self, parts: Mapping[Any, Index], layer: int, start: int, step: int) -> dict[Any, np.ndarray]:
        """Of each part, `step` rows of one of its layers; rows of which several parts have columns are read once."""
        lead, groups = self.lead, defaultdict(list)
        for device, index in parts.items():
            groups[index[0].start + layer if lead else 0, index[lead].start + start].append(device)
        chunks = {}
        for (tensor, first), devices in groups.items():
            columns = [parts[device][lead + 1 :] for device in devices]
            box = [slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in zip(*columns)]
            whole = self.tensors[tensor].read_part((slice(first, first + step), *box))
            for device, own in zip(devices, columns):
                inside = (slice(part.start - of.start, part.stop - of.start) for part, of in zip(own, box))
                chunks[device] = whole[(slice(None), *inside)]
        return chunks

    def put(self, arrays: Mapping[Any, np.ndarray], shard: tuple[int, ...], sharding: Sharding | None) -> jax.Array:
        """Arrays that `parts_of` a sharding names, each of shape `shard`, as one array on their devices.

        In memory of their own: a training step will write over them.
        """
        if sharding is None or None in arrays:
            return jax.device_put(arrays[None].reshape(shard), sharding, may_alias=False)
        # Every axis is split into as many parts as that of the parameter.
        shape = tuple(
            size * (whole // own) for size, whole, own in zip(shard, self.shape, sharding.shard_shape(self.shape))
        )
        placed = [jax.device_put(array.reshape(shard), device, may_alias=False) for device, array in arrays.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, placed)

    def report(self, parts: Mapping[Any, Index], layer: int, done: Callable[[int], None]) -> None:
        """Call `done` for the tensors that a layer of the parts comes from."""
        for tensor in sorted({index[0].start + layer if self.lead else 0 for index in parts.values()}):
            done(tensor)
