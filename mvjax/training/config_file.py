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
from typing import get_origin

from mvjax import settings
from mvjax.errors import UserError
from mvjax.training import config as config_module
from mvjax.training.config import RENAMED, TrainConfig, dotted_name


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
        reason = re.sub(r"^(\w+)\.__init__\(\) ", r"\1 ", str(error))
        raise UserError(f"{path}: is no valid configuration: {reason}") from error
    config = namespace.get("config")
    if not isinstance(config, TrainConfig):
        raise UserError(f"{path}: has no `config = TrainConfig(...)`")
    return config


def override(config: TrainConfig, words: list[str]) -> TrainConfig:
    """The configuration with `--section.field value ...` applied; UserError names the word that cannot be used."""
    import tyro

    fields = {leaf.name: leaf for leaf in settings.leaves(config)}
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("--"):
            groups.append([word])
        elif groups:
            groups[-1].append(word)
        else:
            raise UserError(f"train: what is {word!r} for? Fields are given as --section.field value")
    for group in groups:
        name, negated = field_of(group[0])
        if name not in fields or (negated and fields[name].kind is not bool):
            raise UserError(f"config: {unknown(group[0])}")
        if fields[name].kind is bool:
            group = as_switch(group)
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                config = tyro.cli(type(config), default=config, args=group)
        except SystemExit as error:
            kind = fields[name].kind
            several = "; put spaces between the values" if get_origin(kind) is tuple else ""
            wanted = settings.wanted(kind, fields[name].metadata)
            raise UserError(f"train: {' '.join(group)}: the value must be {wanted}{several}") from error
    return config


def field_of(flag: str) -> tuple[str, bool]:
    """The dotted name of the field that a flag sets, and whether it is `--section.no-field`."""
    section, _, name = flag[2:].split("=")[0].replace("-", "_").rpartition(".")
    return f"{section}.{name.removeprefix('no_')}".lstrip("."), name.startswith("no_")


def unknown(flag: str) -> str:
    """What to give in place of a flag that names no field: its section is missing, its name is old or misspelt."""
    flag = flag.split("=")[0]
    name = field_of(flag)[0]
    if now := dotted_name(name):
        return f"{flag} is now {as_flag(now)}"
    names = {leaf.name: leaf.name for leaf in settings.leaves(TrainConfig())}
    names = RENAMED | {full.rpartition(".")[2]: full for full in names} | names
    close = difflib.get_close_matches(name, names, 1)
    hint = f"; did you mean {as_flag(names[close[0]])}?" if close else "; mvjax train --help lists them"
    return f"there is no field {flag}{hint}"


def as_flag(name: str) -> str:
    """A field's name on the command line."""
    return f"--{name.replace('_', '-')}"


def as_switch(group: list[str]) -> list[str]:
    """`--a.flag true` and `--a.flag=false` as `--a.flag` and `--a.no-flag`; other words as they are."""
    flag, *value = [*group[0].split("=", 1), *group[1:]]
    section, dot, name = flag[2:].rpartition(".")
    switches = {"true": [flag], "false": [f"--{section}{dot}no-{name}"]}
    return switches.get(" ".join(value).lower(), group)


def describe_fields(config: TrainConfig | None) -> str:
    """Section by section a line or two for each field: name, value, the docstring under it."""
    tree = ast.parse(Path(config_module.__file__).read_text(encoding="utf-8"))
    classes = {node.name: node.body for node in tree.body if isinstance(node, ast.ClassDef)}
    lines: list[str] = []

    def describe(section: object, path: str) -> None:
        for field, doc in itertools.pairwise(classes[type(section).__name__]):
            if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
                continue
            value = getattr(section, field.target.id)
            name = path + field.target.id
            if dataclasses.is_dataclass(value):
                lines.append(f"\n{name}: {type(value).__doc__}")
                describe(value, f"{name}.")
            elif isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant):
                lines.append(f"  {as_flag(name)} ({value!r})\n      {doc.value.value}")

    describe(config or TrainConfig(), "")
    return "\n".join(lines)
