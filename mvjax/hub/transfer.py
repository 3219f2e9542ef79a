"""Whole models between the hub and where runs are kept: a fetch that goes on where it broke, and a push."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path

from mvjax.errors import UserError
from mvjax.hub.bucket import ORIGIN
from mvjax.hub.card import CARD, card
from mvjax.hub.download import Source, resolve
from mvjax.hub.faults import explained
from mvjax.hub.names import as_written, parse_name
from mvjax.storage import StoragePath, copy_tree

CONFIG = "config.json"
"""Comes last: what tells that a model is complete."""
ADAPTER = "adapter.safetensors"
PEFT = "adapter_config.json"
"""Tells that a directory is an adapter of PEFT, which has no config.json."""


def fetch(name: str, target: StoragePath, *, cache: str = "", say: Callable[[str], None] = print) -> Source:
    """Bring what is needed of a model to a directory or a bucket; the same call goes on where an earlier one broke.

    Args:
      name: a repository of the hub.
      target: its directory there: empty, or an unfinished or finished fetch of the same name.
      cache: directory on this machine that the files pass through; "": as HF_HUB_CACHE and HF_HOME say.
      say: called with lines about the progress.
    Raises:
      UserError: it is no name of the hub, the hub or the target refuse, or the target holds something else.
    """
    written = as_written(name)
    if parse_name(written) is None:
        raise UserError(f"{written}: no repository of the hub; write OWNER/NAME[@REVISION] or hf://OWNER/NAME")
    before = _origin(target)
    if before is None and (other := next(iter(target.walk()), None)):
        raise UserError(f"{target}: holds {other} and is no fetch of a model; name another directory")
    if before is not None and before["name"] != written:
        raise UserError(f"{target}: is a fetch of {before['name']}, not of {written}; name another directory")
    if before is not None:
        say(f"{target}: goes on with {before['repository']}@{before['commit']}")
    source = resolve(written, cache=cache, commit=before["commit"] if before else "")
    folder = snapshot(source)
    facts = {"name": written, "repository": source.repository, "commit": source.commit}
    # First, so that what goes on reads the same commit.
    (target / ORIGIN).write_text(json.dumps(facts) + "\n")
    copy_tree(
        StoragePath(str(folder)),
        target,
        names=[file for file in source.files if not file.startswith(".")],
        last=lambda file: file == CONFIG,
        progress=lambda file, size: say(f"{target / file}: {size / 1e6:,.1f} MB"),
    )
    return source


def snapshot(source: Source) -> Path:
    """The directory of the commit, whatever in it was named."""
    path = source.path
    return next(folder for folder in (path, *path.parents) if folder.name == source.commit)


def _origin(target: StoragePath) -> dict[str, str] | None:
    """What the target says that it is a fetch of; None where it is none."""
    try:
        facts = json.loads((target / ORIGIN).read_text())
        return {key: facts[key] for key in ("name", "repository", "commit")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{target / ORIGIN}: cannot be read; name another directory") from error


def push(run: StoragePath, name: str, *, private: bool = True) -> str:
    """Put a run's result, or a model's directory, into a repository of the hub, which is made where there is none.

    Args:
      run: the directory of a finished run (its model/ or its adapter), or that of a model.
      name: OWNER/NAME.
      private: whether a new repository is private; one that is there stays as it is.
    Returns:
      The commit.
    Raises:
      UserError: there is nothing to push, or the hub refuses.
    """
    import huggingface_hub
    from huggingface_hub import constants

    written = as_written(name)
    found = parse_name(written if written.startswith("hf://") else f"hf://{written}")
    if found is None or found.dataset or found.path or found.revision:
        raise UserError(f"{written}: no name of a repository of models; write OWNER/NAME")
    with _pushed(run) as folder, explained(found, written, constants.HF_HUB_CACHE, writing=True):
        api = huggingface_hub.HfApi()
        api.create_repo(found.repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=found.repository,
            folder_path=folder,
            commit_message="Weights by mvjax",
            ignore_patterns=[".*", ORIGIN],
        )
    return done.oid


@contextlib.contextmanager
def _pushed(run: StoragePath) -> Generator[Path]:
    """A local directory with what is pushed of a run."""
    is_peft = (run / PEFT).is_file()
    try:
        config = {} if is_peft else json.loads((run / CONFIG).read_text())
    except FileNotFoundError as error:
        raise UserError(f"{run}: neither a run nor a model (no {CONFIG}); name the directory of one") from error
    except ValueError as error:
        raise UserError(f"{run / CONFIG}: cannot be read ({error})") from error
    is_run = isinstance(config.get("model"), dict)
    whole = run / "model" if is_run else run
    with tempfile.TemporaryDirectory() as temporary:
        if is_peft or (whole / CONFIG).is_file():
            if whole.local is None:
                copy_tree(whole, StoragePath(temporary))
            yield whole.local or Path(temporary)
        elif (run / ADAPTER).is_file():
            copy_tree(run, StoragePath(temporary), names=[ADAPTER])
            base = (config.get("origins") or {}).get("model.path") or config["model"].get("path", "")
            text = card(base, "Adapter trained", f"run {config.get('name', '')}")
            (Path(temporary) / CARD).write_text(text, encoding="utf-8")
            yield Path(temporary)
        else:
            raise UserError(f"{run}: the run has no model and no {ADAPTER}: it is not finished")
