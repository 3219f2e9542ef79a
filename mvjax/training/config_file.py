"""The configuration of a run as a user gives it: a Python file, and words of the command line that change fields."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from pathlib import Path

from mvjax.errors import UserError
from mvjax.training import config as config_module
from mvjax.training.config import TrainConfig


def load_config(path: Path) -> TrainConfig:
    """The `config` of a Python file; UserError where there is none."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        presets = ", ".join(sorted(str(p) for p in Path("configs").glob("*.py")))
        hint = f"; there are {presets}" if presets else ""
        raise UserError(f"{path}: cannot be read ({error.__class__.__name__}){hint}") from error
    namespace: dict[str, object] = {"__name__": path.stem, "__file__": str(path)}
    try:
        exec(compile(source, str(path), "exec"), namespace)
    except Exception as error:
        reason = re.sub(r"^TrainConfig\.__init__\(\) ", "", str(error))
        raise UserError(f"{path}: is no valid configuration: {reason}") from error
    config = namespace.get("config")
    if not isinstance(config, TrainConfig):
        raise UserError(f"{path}: has no `config = TrainConfig(...)`")
    return config


def override(config: TrainConfig, words: list[str]) -> TrainConfig:
    """The configuration with `--field value ...` applied; UserError names the word that cannot be used."""
    import tyro

    fields = [field.name for field in dataclasses.fields(config)]
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            groups.append([word])
        elif groups:
            groups[-1].append(word)
        else:
            raise UserError(f"train: what is {word!r} for? Fields are given as --field value")
    for flag, *_ in groups:
        name = flag[2:].split("=")[0].replace("-", "_")
        if name not in fields and not (name.startswith("no_") and name[3:] in fields):
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean --{close[0].replace('_', '-')}?" if close else "; mvjax train --help lists them"
            raise UserError(f"config: there is no field {flag}{hint}")
    for group in groups:
        if isinstance(getattr(config, group[0][2:].split("=")[0].replace("-", "_"), None), bool):
            group = as_switch(group)
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                config = tyro.cli(type(config), default=config, args=group)
        except SystemExit as error:
            name = group[0][2:].split("=")[0].replace("-", "_")
            kind = next((str(f.type) for f in dataclasses.fields(config) if f.name == name), "a switch without value")
            several = "; put spaces between the values" if kind.startswith("tuple") else ""
            raise UserError(f"train: {' '.join(group)}: the value must be of type {kind}{several}") from error
    return config


def as_switch(group: list[str]) -> list[str]:
    """`--flag true` and `--flag=false` as `--flag` and `--no-flag`; other words as they are."""
    flag, *value = [*group[0].split("=", 1), *group[1:]]
    switches = {"true": [flag], "false": [f"--no-{flag[2:]}"]}
    return switches.get(" ".join(value).lower(), group)


def describe_fields(config: TrainConfig | None) -> str:
    """A line or two for each field: name, value, the docstring under it."""
    tree = ast.parse(Path(config_module.__file__).read_text(encoding="utf-8"))
    body = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainConfig").body
    shown = config or TrainConfig()
    lines = []
    for field, doc in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(doc, ast.Expr):
            name = field.target.id
            lines.append(f"  --{name.replace('_', '-')} ({getattr(shown, name)!r})\n      {doc.value.value}")
    return "\n".join(lines)
