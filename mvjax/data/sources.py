"""What users name as training data: files, folders of files, and the records in them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, overload

from mvjax.data.formats import FORMATS, FormatName, detect, known_formats, parse_line
from mvjax.data.readers import CHUNK, SUFFIXES, DataFile, kind_of
from mvjax.data.records import Fault, Record, check_share, open_input
from mvjax.errors import UserError
from mvjax.hub import Source, download_files, parse_name
from mvjax.hub.bucket import absent
from mvjax.hub.cache import bucket_cache
from mvjax.hub.names import address_of, as_written, path_of
from mvjax.storage import StoragePath, snapshot

CARDS = ("README.md", ".gitattributes")
"""Files that tell which commit a revision of a dataset is."""
REFUSED = (".csv", ".tsv", ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar", ".bin", ".pt", ".safetensors", ".gguf")
"""Suffixes of what cannot be JSON lines."""
SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")
"""Files that `datasets` puts beside those with rows."""
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
"""Words of a path that name a split, as `datasets` has them."""


def find_data(name: str | Path, *, cache: str = "", commit: str = "") -> Source:
    """Where data is: a path as it is, or a dataset of the hub or a bucket, whose files are downloaded.

    Args:
      name: a file or a folder, or its address in gs:// or s3://; hf://datasets/OWNER/NAME[@REVISION][/PATH], or
        OWNER/NAME where that is no local path.
      cache, commit: as for `hub.resolve`.
    Raises:
      UserError: see `hub.resolve`; or the repository has no data that can be read.
    """
    text = as_written(name)
    if (place := address_of(text)) is not None:
        return Source(copy_of(place, cache), text, address=str(place))
    found = parse_name(text, dataset=True)
    if found is None:
        return Source(path_of(text), text)
    if not found.dataset:
        raise UserError(f"{text}: a model, where data is wanted; datasets are hf://datasets/{found.repository}")

    def choose(files: Sequence[str], _: Path) -> list[str]:
        inside = [file for file in files if file == found.path or file.startswith(f"{found.path}/" * bool(found.path))]
        data = [file for file in inside if is_data(Path(file))]
        if not data:
            raise UserError(f"{text}: no {', '.join(SUFFIXES)} file in it")
        return choose_split(data) if data != [found.path] else data

    folder, commit, files = download_files(found, choose, CARDS, written=text, cache=cache, commit=commit)
    return Source(folder, text, found.repository, commit, tuple(files))


def copy_of(place: StoragePath, cache: str = "") -> Path:
    """A file or folder of data in a bucket, copied to this machine; `cache` as for `hub.bucket.model_copy`."""
    if place.is_file():
        refuse_suffix(PurePath(place.name), place)
        return snapshot(place.parent, [place.name], bucket_cache(cache)) / place.name
    names = [*place.walk()]
    if not names:
        raise absent(place)
    rows = [name for name in names if is_data(Path(name))]
    saved = [name for name in names if PurePath(name).name in SAVED]
    if not rows:
        raise UserError(f"{place}: no {', '.join(SUFFIXES)} file in it")
    return snapshot(place, [*rows, *saved] if saved else choose_split(rows), bucket_cache(cache))


def open_data(
    names: Sequence[str | Path | Source], format: FormatName = "auto", *, suffix: bool = False
) -> tuple[DataFile, ...]:
    """The files that these names stand for, each with the format of its rows.

    Args:
      names: files, folders that `datasets` saved (`save_to_disk`), folders of files, or datasets of the hub
        (`find_data`); of several splits the one for training is taken.
      format: of all rows; auto: by the keys of the first one of each name.
      suffix: whether prompts of sequential records get the suffix of the autoregressive form.
    Raises:
      UserError: a name is of nothing that can be read, or a format is not known.
    """
    found: list[DataFile] = []
    for entry, name in enumerate(names):
        source = name if isinstance(name, Source) else find_data(name)
        files = [replace(file, entry=entry, suffix=suffix) for file in files_at(source)]
        rows = _format_of(files) if format == "auto" else format
        found += [replace(file, format=rows) for file in files]
    return tuple(found)


def describe(files: Sequence[DataFile], names: Sequence[str | Path]) -> Iterator[str]:
    """A line on each name: the format of its rows, and what is made of them."""
    for entry, name in enumerate(names):
        own = [file for file in files if file.entry == entry]
        count = f", {len(own)} files" if len(own) > 1 else ""
        form = "" if own[0].format == "records" else ", taught as sequential text"
        yield f"data: {name}{count}: {FORMATS[own[0].format].words} ({FORMATS[own[0].format].keys}){form}"


def read_records(path: str | Path, format: FormatName = "auto", *, max_bad_share: float = 0.02) -> RecordFile:
    """Read the records of a file or a folder; malformed ones are skipped, counted and named.

    Args:
      path: as for `open_data`.
      format: of its rows.
      max_bad_share: largest share of malformed records that is put up with.
    Raises:
      UserError: no such file, no usable record, or too many malformed ones.
    """
    records: list[Record] = []
    faults: list[Fault] = []
    for file in open_data([path], format):
        for number, found in enumerate(file.records(), 1):
            if isinstance(found, Record):
                records.append(found)
            elif found is not None:
                faults.append(Fault(f"{file.name}:{number}", found))
    check_share(faults, len(records) + len(faults), max_bad_share, str(path))
    return RecordFile(tuple(records), tuple(faults))


@dataclass(frozen=True)
class RecordFile(Sequence[Record]):
    """The good records of a file, as a sequence, beside the faulty ones."""

    records: tuple[Record, ...]
    """Records that can be used, in the order of the file."""
    faults: tuple[Fault, ...]
    """Records that were skipped."""

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index):
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)


def files_at(source: Source) -> list[DataFile]:
    """The files of a source.

    Raises:
      UserError: it is of nothing that can be read.
    """
    if not source.repository:
        return files_of(source.path)
    folder = source.path
    return [DataFile(folder / name, f"{source.repository}/{name}", kind_of(folder / name)) for name in source.files]


def files_of(path: Path) -> list[DataFile]:
    """The files that a path stands for.

    Raises:
      UserError: it is of nothing that can be read.
    """
    if not path.is_dir():
        refuse_suffix(path, path)
        open_input(path).close()
        return [DataFile(path, path.name, kind_of(path))]
    if (path / "dataset_dict.json").exists():
        splits = _json(path / "dataset_dict.json").get("splits") or []
        if "train" not in splits and len(splits) != 1:
            raise UserError(f"{path}: has the splits {', '.join(splits)} and none is train; name the folder of one")
        return files_of(path / ("train" if "train" in splits else splits[0]))
    if (path / "state.json").exists():
        names = [entry["filename"] for entry in _json(path / "state.json").get("_data_files") or []]
        if _json(path / "state.json").get("_indices_data_files"):
            raise UserError(f"{path}: saved with a mapping of indices; save it again after flatten_indices()")
    else:
        inside = sorted(file.relative_to(path) for file in path.rglob("*"))
        names = choose_split([str(file) for file in inside if is_data(file)])
    if not names:
        raise UserError(f"{path}: no {', '.join(SUFFIXES)} file in this folder, and it is none that datasets saved")
    files = [DataFile(path / name, f"{path.name}/{name}", kind_of(path / name)) for name in names]
    # A shard may be empty, but not all of them.
    return [file for file in files if len(files) == 1 or file.spans(CHUNK)] or files[:1]


def refuse_suffix(path: PurePath, where: object) -> None:
    """UserError for a file that cannot be one of rows, by its suffix."""
    if path.suffix.lower() in REFUSED:
        known = ", ".join(SUFFIXES)
        raise UserError(f"{where}: {path.suffix} files cannot be read; data is in {known} files or in folders of them")


def is_data(path: Path) -> bool:
    """Whether a file in a folder of data is one of rows."""
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden and path.name not in ("dataset_info.json", "state.json")


def choose_split(names: Sequence[str]) -> list[str]:
    """Of the names of files the ones of the training split, or all where no name is that of a split.

    Raises:
      UserError: there are splits, but none for training.
    """
    words = [re.split(r"[^a-z]+", name.lower()) for name in names]
    splits = [next((SPLITS[word] for word in reversed(parts) if word in SPLITS), "") for parts in words]
    if not any(splits):
        return list(names)
    if "train" not in splits:
        raise UserError(f"{', '.join(names[:4])}: none is of a training split; name the file to read")
    return [name for name, split in zip(names, splits) if split == "train"]


def _format_of(files: Sequence[DataFile]) -> str:
    """The format of the first row that is an object; our own where there is no such row."""
    for file in files:
        for number, row in enumerate(file.rows(), 1):
            with contextlib.suppress(ValueError):
                fields = parse_line(row) if isinstance(row, bytes) else row
                if isinstance(fields, dict):
                    if format := detect(fields):
                        return format
                    raise UserError(
                        f"{file.name}:{number}: keys {', '.join(list(fields)[:8])} are those of no known format: "
                        f"{known_formats()}; rename the keys, or name the format"
                    )
    return "records"


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); save the dataset again") from error
