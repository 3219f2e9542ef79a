"""Run in a process of its own, with the Python that trains: what mvjax and JAX say before a start, as a line of JSON.

    probe_env.py config CONFIG [options of mvjax train ...]      versions, and the paths of the configuration
    probe_env.py devices                                         the devices that JAX sees on this host

An error that the user can mend comes as {"error": ...}.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "flax", "orbax-checkpoint")


def config(name: str, words: list[str]) -> dict:
    """Versions and the fields that a launch checks."""
    try:
        from mvjax.version import __version__
    except ImportError:
        return {"error": f"{sys.executable} has no mvjax; activate its environment (. .venv/bin/activate)"}
    from mvjax.errors import UserError
    from mvjax.hub import parse_name
    from mvjax.hub.names import address_of, as_written, path_of
    from mvjax.storage import StoragePath, check_bucket
    from mvjax.training.config_file import load_config, override

    try:
        chosen = override(load_config(Path(name)), [word for word in words if word != "--restart"]).validate()
        output = StoragePath(chosen.output.directory)
        if output.local is None and chosen.model.path and chosen.data.files:
            check_bucket(output)
        named = {"model": [chosen.model.path], "tokenizer": [chosen.model.tokenizer], "data": list(chosen.data.files)}
        files: dict[str, list[str]] = {field: [] for field in named}
        for field, text in [(field, as_written(text)) for field, texts in named.items() for text in texts if text]:
            if (place := address_of(text)) is not None:
                if not place.exists():
                    return {"error": f"{field}: {text}: nothing is there; correct the address"}
            elif parse_name(text, dataset=field == "data") is None:  # the hub is asked where the run starts
                files[field].append(str(path_of(text)))
    except UserError as error:
        return {"error": str(error)}
    versions = {"python": ".".join(map(str, sys.version_info[:2])), "mvjax": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "files": files,
        "missing": [field for field in ("model", "data") if not any(named[field])],
        "output": str(output),
        "name": chosen.name,
    }


def devices() -> dict:
    """Platform and number of the devices of this host."""
    for name in [name for name in os.environ if name.startswith("MEGASCALE_")]:
        del os.environ[name]  # each slice is asked by itself
    try:
        import jax

        local = jax.local_devices()
    except Exception as error:
        return {"error": f"JAX finds no devices: {' '.join(str(error).split())[:300]}"}
    return {"platform": local[0].platform, "kind": local[0].device_kind, "count": len(local)}


if __name__ == "__main__":
    answer = config(sys.argv[2], sys.argv[3:]) if sys.argv[1] == "config" else devices()
    print(json.dumps(answer))
