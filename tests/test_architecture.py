"""The rooms and the arrows between them: who may import whom, no circles, and what the ground floor may use."""

import ast
import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCHERS = ("host", "kubernetes", "local", "serve", "serve_kubernetes", "slurm", "tpu_pod", "worker")

GROUND = {"errors", "files", "lazy", "numbered_files", "placeholders", "served_model", "settings", "version"}
"""Modules directly under mvjax/ that any room but `language` may use."""

ARROWS: Mapping[str, set[str]] = {
    "mvjax_kernels": set(),
    "language": set(),
    "errors": set(),
    "version": set(),
    "files": set(),
    "storage": GROUND,
    "hub": GROUND | {"storage"},
    "lazy": set(),
    "numbered_files": set(),
    "placeholders": {"errors"},
    "served_model": set(),
    "settings": {"errors"},
    "chips": set(),
    "mvjax": {"engine", "errors", "lazy", "models", "version"},
    "tokenizers": GROUND | {"language"},
    "weights": GROUND | {"storage"},
    "models": GROUND | {"hub", "mvjax_kernels", "storage", "tokenizers", "weights"},
    "data": GROUND | {"hub", "language", "storage", "tokenizers"},
    "grading": GROUND | {"data"},
    "engine": GROUND | {"data", "language"},
    "training": GROUND
    | {"chips", "data", "display", "engine", "hub", "language", "models", "mvjax_kernels"}
    | {"storage", "tokenizers", "weights"},
    "evaluation": GROUND | {"engine", "grading", "language"},
    "planning": GROUND | {"chips", "engine", "hub", "language", "models", "tokenizers", "training"},
    "curator": GROUND | {"data", "evaluation", "grading", "language", "models", "tokenizers"},
    "bench": GROUND
    | {"curator", "data", "engine", "language", "models", "mvjax_kernels", "planning", "serving", "training"}
    | {"hub", "weights"},
    "serving": GROUND | {"data", "engine", "language", "tokenizers"},
    "display": GROUND | {"engine", "language", "tokenizers"},
    "cli": GROUND
    | {"bench", "curator", "data", "display", "engine", "evaluation", "language", "models", "planning", "tokenizers"}
    | {"grading", "hub", "serving", "storage", "training", "weights"},
    "launch": GROUND | {"hub", "storage", "training"},
}
"""Room -> rooms it may import. Every arrow runs downward; one that nothing uses is taken out."""

LIBRARIES = {
    "language": {"numpy", "jaxtyping"},
    "mvjax_kernels": {"numpy", "jax", "jaxtyping", "jax_triton", "triton"},
}
"""What the ground floor may import beside the standard library."""


def imports(source: str, known: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Modules that a source imports, at any depth of nesting, and whether that happens when it is itself imported.

    known: modules of the project; `from package import name` is the module `package.name` where there is one.
    """
    known, waiting = set(known), [(ast.parse(source), True)]
    while waiting:
        node, at_once = waiting.pop(0)
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_once) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module, at_once
        at_once = at_once and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        waiting += ((child, at_once) for child in ast.iter_child_nodes(node) if isinstance(child, BODIES))


BODIES = (ast.stmt, ast.excepthandler, ast.match_case)
"""What a statement can stand in."""


def room(module: str) -> str:
    """`engine` of mvjax.engine.state, `mvjax_kernels` of its modules, `launch` of its scripts."""
    first, *rest = module.split(".")
    return rest[0] if first == "mvjax" and rest else first


def forbidden(graph: Mapping[str, set[str]], arrows: Mapping[str, set[str]]) -> list[str]:
    """Imports between rooms that the table does not have."""
    return [
        f"{module} imports {other}"
        for module, others in sorted(graph.items())
        for other in sorted(others)
        if other in graph and room(other) != room(module) and room(other) not in arrows.get(room(module), set())
    ]


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """One walk from a module back to itself for each module that can be reached from itself, no walk twice."""
    found: dict[frozenset[str], list[str]] = {}
    for start in sorted(graph):
        before, queue = {start: None}, [start]
        for module in queue:  # breadth first: the list grows
            for other in sorted(graph[module] & graph.keys()):
                if other == start:
                    walk = [module]
                    while before[walk[-1]] is not None:
                        walk.append(before[walk[-1]])
                    found.setdefault(frozenset(walk), [*walk[::-1], start])
                elif other not in before:
                    before[other] = module
                    queue.append(other)
    return list(found.values())


@functools.cache
def sources() -> dict[str, str]:
    """The text of every module of the project, by name."""
    texts = {}
    for base, prefix in ((ROOT, "mvjax"), (ROOT / "kernels", "mvjax_kernels")):
        for path in sorted((base / prefix).rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            texts[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    for path in [*(ROOT / "launch").glob("*.py"), *(ROOT / "launch" / name for name in LAUNCHERS)]:
        texts[f"launch.{path.stem}"] = path.read_text(encoding="utf-8")
    return texts


@functools.cache
def graph() -> dict[str, set[str]]:
    """Module -> modules that it imports; scripts of launch/ import their neighbours by their bare names."""
    texts = sources()
    neighbours = {name.removeprefix("launch."): name for name in texts if name.startswith("launch.")}
    return {
        module: {
            neighbours.get(name, name) if module in neighbours.values() else name for name, _ in imports(text, texts)
        }
        for module, text in texts.items()
    }


def test_arrows_run_downward():
    wrong = forbidden(graph(), ARROWS)
    assert not wrong, f"move what is shared down, or, where the arrow runs downward, add it to ARROWS: {wrong}"


def test_the_table_is_an_order_and_says_what_there_is():
    assert circles(ARROWS) == []
    assert {room(module) for module in graph()} == ARROWS.keys()
    used = {(room(module), room(other)) for module, others in graph().items() for other in others}
    stale = {(name, other) for name, others in ARROWS.items() for other in others - GROUND} - used
    assert not stale, f"nothing uses these arrows any more, take them out of ARROWS: {stale}"


def test_the_documentation_draws_the_table():
    """docs/architecture.md: every room has a line and imports from lower lines only."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    lines = page.split("## The rooms")[1].split("```")[1].split("\n")
    height = {name: -number for number, line in enumerate(lines) for name in line.split()}
    folders = {path.parent.name for path in (ROOT / "mvjax").glob("*/__init__.py")}
    assert set(height) == folders | {"mvjax_kernels"}
    for name in height:
        assert all(height[other] < height[name] for other in ARROWS[name] & height.keys()), name


def test_no_module_imports_itself_by_way_of_others():
    assert circles(graph()) == []


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_the_ground_floor_uses(name):
    used = {other.split(".")[0] for module, others in graph().items() if room(module) == name for other in others}
    own = {"mvjax" if name == "language" else name}
    assert used - own - sys.stdlib_module_names <= LIBRARIES[name]
    inside = {other for module, others in graph().items() if room(module) == name for other in others & graph().keys()}
    assert {room(other) for other in inside} <= {name}


def test_triton_is_imported_only_where_a_gpu_serves_a_call():
    """The modules of gpu/ import it when they are imported, and they are imported in functions only."""
    for module, text in sources().items():
        if room(module) == "mvjax_kernels" and not module.startswith("mvjax_kernels.gpu"):
            at_once = {name for name, outside in imports(text, sources()) if outside}
            assert not {name for name in at_once if name.startswith(("triton", "jax_triton", "mvjax_kernels.gpu"))}


def test_what_the_checks_find():
    """The checks above on projects that are made up: each finds what is wrong, and only that."""
    known = {"mvjax.cli.train", "mvjax.bench.run", "mvjax.bench.report", "mvjax.language", "mvjax.language.tags"}
    source = """
import json
from mvjax.language import tags, Layout
def run():
    from mvjax.cli.train import load
"""
    found = list(imports(source, known))
    assert found == [
        ("json", True),
        ("mvjax.language.tags", True),
        ("mvjax.language", True),
        ("mvjax.cli.train", False),
    ]
    project = {name: set() for name in known} | {
        "mvjax.bench.run": {name for name, _ in found} | {"mvjax.bench.report"}
    }
    assert forbidden(project, ARROWS) == ["mvjax.bench.run imports mvjax.cli.train"]
    assert circles(project) == []
    project["mvjax.bench.report"] = {"mvjax.bench.run"}
    assert circles(project) == [["mvjax.bench.report", "mvjax.bench.run", "mvjax.bench.report"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d", "a"}}) == [["a", "b", "c", "a"], ["d", "d"]]
