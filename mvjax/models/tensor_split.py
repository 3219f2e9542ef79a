"""What of a model each of several devices holds where its layers are split over them, and how that is read from files.

Each device has equally many heads and columns of the feed-forward layer: rows of the matrices that make them (packed as
`decode_params` packs them, so that a device's part is a pack of its own heads), columns of those that take them. Where
there are fewer key/value heads than devices, neighbours have the same one. The vocabulary's rows are split too, with
rows of zeros at the end where their number does not divide. Norms and the biases of sums are whole everywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mvjax.errors import UserError
from mvjax.models.arrays import outer_arrays
from mvjax.models.config import ModelConfig
from mvjax.models.decode_params import layer_packs
from mvjax.models.number_formats import NumberFormats
from mvjax.models.quantised import QuantisedRows
from mvjax.models.sharded_loading import Parameter, check_floating
from mvjax.models.tensors import check_tensors, expected_shapes, outer_name, parameter_count
from mvjax.models.transfer import chunk_bytes
from mvjax.weights.checkpoint import Checkpoint, LazyTensor, cast, lazily

AXIS = "tensor"
"""Name of the mesh's only axis, the one of a training mesh that splits the same things."""

MOST = 0.8
"""Share of a device's memory that weights may take where the number of devices is chosen: the rest is for streams."""


@dataclass(frozen=True)
class Part:
    """Rows of one of a model's arrays that a device has."""

    name: str
    """Of the array, in its layer or outside the layers."""
    rows: int
    """Of each device; those that the array does not have are zeros."""
    repeats: int = 1
    """Devices, one after the other, that have the same rows."""


@dataclass(frozen=True)
class Piece:
    """One array of a model's parameters for decoding, over all devices."""

    parts: tuple[Part, ...]
    """The arrays that it is made of: of each device, its rows of each of them one after the other."""
    shape: tuple[int, ...]
    """Without the axis of layers."""
    split: int | None
    """Its axis that is split; None: every device has the whole."""
    kind: Literal["plain", "values", "scales"] = "plain"
    """Of what it has of its arrays: all, or, where they are quantised, the numbers or the scales of their rows."""

    @property
    def matrix(self) -> bool:
        """Whether it is quantised where weights are."""
        return len(self.shape) == 2

    @property
    def quantised(self) -> tuple[Piece, Piece]:
        """A matrix as numbers in fewer bits and the scales of its rows, which are those of whole rows."""
        scales = replace(self, shape=self.shape[:1], split=0 if self.split == 0 else None, kind="scales")
        return replace(self, kind="values"), scales

    def dtype(self, formats: NumberFormats) -> np.dtype:
        """Of its elements."""
        return {"plain": formats.activations, "values": formats.weights, "scales": np.dtype(np.float32)}[self.kind]

    def spec(self, lead: int = 0) -> PartitionSpec:
        """Its partition, with `lead` axes before its own."""
        return PartitionSpec() if self.split is None else PartitionSpec(*(None,) * (lead + self.split), AXIS)

    def tensor(self, source: Source, prefix: str) -> LazyTensor:
        """It from a checkpoint's tensors, under names that begin with `prefix`, read when asked for."""
        found, dtype = [source.find(prefix + part.name, self.kind) for part in self.parts], self.dtype(source.formats)
        if self.split != 0 and len(found) == 1:
            return found[0]
        spans = []
        for device in range(self.shape[0] // sum(part.rows for part in self.parts)):
            for part, entry in zip(self.parts, found, strict=True):
                start = device // part.repeats * part.rows
                spans.append((entry, start, min(start + part.rows, entry.shape[0]), part.rows))
        return rows_of(spans, self.shape, dtype)


@dataclass(frozen=True)
class Source:
    """A checkpoint's tensors as parameters have them."""

    entries: Mapping[str, LazyTensor]
    """By name."""
    formats: NumberFormats
    """Of the parameters."""
    quantised: dict[str, QuantisedRows] = field(default_factory=dict)
    """Matrices that were asked for so far: the scales of rows that have been read need no second reading."""

    def find(self, name: str, kind: str) -> LazyTensor:
        """A tensor, or the numbers or scales of a quantised one."""
        if kind == "plain":
            return cast(name, self.entries[name], self.formats.activations)
        if name not in self.quantised:
            self.quantised[name] = QuantisedRows(name, self.entries[name], self.formats.weights)
        return getattr(self.quantised[name], kind)


def rows_of(spans: Sequence[tuple[LazyTensor, int, int, int]], shape: tuple[int, ...], dtype: np.dtype) -> LazyTensor:
    """A tensor made of rows [start, stop) of others, one span after the other, each filled up to a number of rows with
    zeros."""
    # What cannot be read in rows is read once.
    readers = {id(entry): functools.lru_cache(maxsize=1)(entry.read) for entry, *_ in spans if entry.read_rows is None}

    def read_rows(start: int, stop: int) -> np.ndarray:
        out, begin = np.zeros((stop - start, *shape[1:]), dtype), 0
        for entry, first, last, rows in spans:
            low, high = max(start, begin), min(stop, begin + last - first)
            if low < high:
                wanted = slice(first + low - begin, first + high - begin)
                read = readers.get(id(entry))
                out[low - start : high - start] = read()[wanted] if read else entry.read_part((wanted,))
            begin += rows
        return out

    return LazyTensor(shape, dtype, lambda: read_rows(0, shape[0]), read_rows)


@dataclass(frozen=True)
class TensorSplit:
    """A model over a number of devices."""

    config: ModelConfig
    """Of the model."""
    size: int
    """Number of devices. UserError where they cannot share its heads and its feed-forward layer."""

    def __post_init__(self) -> None:
        config = self.config
        if not divides(config, self.size):
            good = [size for size in range(1, config.heads + 1) if divides(config, size)]
            raise UserError(
                f"tensor parallel {self.size}: {config.heads} heads, {config.kv_heads} key/value heads and a "
                f"feed-forward layer of {config.ffn} cannot be shared by {self.size} devices; "
                f"{', '.join(map(str, good))} can be"
            )

    @functools.cached_property
    def local(self) -> ModelConfig:
        """What one device computes: a model with its heads, columns and rows of the vocabulary."""
        config, size = self.config, self.size
        return replace(
            config,
            heads=config.heads // size,
            kv_heads=math.ceil(config.kv_heads / size),
            ffn=config.ffn // size,
            vocab_size=math.ceil(config.vocab_size / size),
        )

    @functools.cached_property
    def whole(self) -> ModelConfig:
        """All devices together: key/value heads counted as often as they are held."""
        return replace(self.config, kv_heads=self.local.kv_heads * self.size)

    @functools.cached_property
    def layer(self) -> dict[str, Piece]:
        """The arrays of a layer, by the names of `decode_params`."""
        pieces, local = {}, layer_packs(self.local)
        for name, arrays in layer_packs(self.config).items():
            pairs = list(zip(arrays, local[name], strict=True))
            shape = arrays[0].shape
            split = next(
                (axis for own, of in pairs for axis in range(len(shape)) if own.shape[axis] != of.shape[axis]), None
            )
            rows = [of.shape[0] for _, of in pairs]
            parts = tuple(Part(own.name, of.shape[0], self.size * of.shape[0] // own.shape[0]) for own, of in pairs)
            if split == 0 or len(pairs) > 1:
                shape = (self.size * sum(rows), *shape[1:])
            pieces[name] = Piece(parts, shape, split)
        return pieces

    @functools.cached_property
    def outer(self) -> dict[str, Piece]:
        """The arrays outside the layers."""
        pieces, names = {}, {"embed_tokens": "embed", "norm": "norm", "lm_head": "head"}
        for array in outer_arrays(self.config):
            piece = Piece((Part(array.name, array.shape[0]),), array.shape, None)
            if len(array.shape) == 2:
                rows = self.local.vocab_size
                piece = Piece((Part(array.name, rows),), (self.size * rows, array.shape[1]), 0)
            pieces[names[array.module]] = piece
        return pieces

    def params(self, unroll: bool, quantised: bool, make: Callable[[Piece, Sequence[str], int], Any]) -> dict[str, Any]:
        """Parameters in the form of `decode_params`, each made by make(piece, prefixes of its tensors' names in a
        checkpoint, 1 where it has an axis of layers, else 0).

        quantised: the scales of a matrix `PACK.weight`, `embed` or `head` stand beside it as `PACK.scale`,
            `embed.scale` or `head.scale`.
        """

        def each(pieces: Mapping[str, Piece]) -> Iterator[tuple[str, Piece]]:
            for name, piece in pieces.items():
                if quantised and piece.matrix:
                    yield from zip((name, scale_name(name)), piece.quantised)
                else:
                    yield name, piece

        prefixes = [f"model.layers.{layer}." for layer in range(self.config.layers)]
        layers: Any
        if unroll:
            layers = [{name: make(piece, [prefix], 0) for name, piece in each(self.layer)} for prefix in prefixes]
        else:
            layers = {name: make(piece, prefixes, 1) for name, piece in each(self.layer)}
        outer = {}
        for name, piece in each(self.outer):
            array = piece.parts[0].name
            outer[name] = make(piece, [outer_name(array).removesuffix(array)], 0)
        return {**outer, "layers": layers}

    def shapes(self, mesh: Mesh | None, unroll: bool, formats: NumberFormats) -> dict[str, Any]:
        """Of the parameters, and where they lie (mesh None: on one device, not said which)."""

        def make(piece: Piece, prefixes: Sequence[str], lead: int) -> jax.ShapeDtypeStruct:
            shape = (len(prefixes),) * lead + piece.shape
            return jax.ShapeDtypeStruct(shape, piece.dtype(formats), sharding=sharding_of(piece, mesh, lead))

        return self.params(unroll, formats.quantised, make)

    def load(self, checkpoint: Checkpoint, mesh: Mesh | None, unroll: bool, formats: NumberFormats) -> dict[str, Any]:
        """The parameters, read from a checkpoint straight to where they lie (mesh None: on the default device) and
        quantised on the way. Beside its part of them, a device holds a chunk of `mvjax.models.transfer`.

        Raises UserError where tensors are missing, superfluous, misshapen, no floating-point numbers or, to be
        quantised, not finite.
        """
        names, found = expected_shapes(check_tensors(checkpoint)), lazily(checkpoint.tensors)
        entries = {name: found[name] for name in names}
        check_floating(checkpoint, entries)
        limit, source = chunk_bytes(max(entry.nbytes for entry in entries.values())), Source(entries, formats)

        def make(piece: Piece, prefixes: Sequence[str], lead: int) -> jax.Array:
            tensors = [piece.tensor(source, prefix) for prefix in prefixes]
            shape = (len(prefixes),) * lead + piece.shape
            parameter = Parameter(shape, piece.dtype(formats), tensors, sharding_of(piece, mesh, lead))
            return parameter.load(limit, lambda tensor: None)

        return self.params(unroll, formats.quantised, make)


def sharding_of(piece: Piece, mesh: Mesh | None, lead: int) -> NamedSharding | None:
    """Where a parameter lies."""
    return None if mesh is None else NamedSharding(mesh, piece.spec(lead))


def scale_name(name: str) -> str:
    """Of the scales of a quantised matrix, by the name of that."""
    return f"{name.removesuffix('.weight')}.scale"


def divides(config: ModelConfig, size: int) -> bool:
    """Whether a number of devices can share a model's heads and its feed-forward layer."""
    if size < 1 or config.heads % size or config.ffn % size:
        return False
    return config.kv_heads % size == 0 or size % config.kv_heads == 0


def tensor_mesh(size: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The first `size` of some devices (by default those of this process) in a row, neighbours in it being neighbours
    on the chips' network where all of them take part."""
    devices = jax.local_devices() if devices is None else list(devices)
    if size > len(devices):
        few = f"there {'is' if len(devices) == 1 else 'are'} {len(devices)} {devices[0].platform} device"
        raise UserError(f"tensor parallel {size}: {few}{'s' * (len(devices) > 1)} here; give at most {len(devices)}")
    if size == len(devices) and devices[0].platform == "tpu":
        grid = mesh_utils.create_device_mesh((size,), devices, allow_split_physical_axes=True)
    else:
        grid = np.asarray(devices[:size])
    return Mesh(grid, (AXIS,), axis_types=(AxisType.Auto,))


def devices_needed(
    config: ModelConfig, dtype: Any, devices: Sequence[jax.Device] | None = None, room: float | None = None
) -> int:
    """The smallest number of devices whose memory holds a model's weights with space for streams, else the largest that
    can share it; 1 where devices do not say how much memory they have, as CPUs do not.

    room: bytes of a device's memory, for devices that are not here."""
    devices = jax.local_devices() if devices is None else list(devices)
    room = room or (devices[0].memory_stats() or {}).get("bytes_limit")
    good = [size for size in range(1, len(devices) + 1) if divides(config, size)]
    if not room:
        return 1
    weights = parameter_count(config) * jnp.dtype(dtype).itemsize
    return next((size for size in good if weights / size <= MOST * room), good[-1])
