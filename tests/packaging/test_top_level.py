"""`import mvjax`: cheap, complete, and the same names for a reader, a type checker and at run time."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mvjax
import mvjax.engine

HEAVY = ("jax", "flax", "numpy", "tokenizers", "rich")


def test_importing_the_package_imports_nothing_heavy_and_takes_little():
    """Times are the interpreter's own, of which the fastest of three counts."""
    code = (
        "import json, sys, time; start = time.perf_counter(); import mvjax; seconds = time.perf_counter() - start;"
        "print(json.dumps([seconds, sorted(sys.modules)]))"
    )
    runs = [json.loads(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(seconds for seconds, _ in runs) < 0.3
    assert not set(HEAVY) & set(runs[0][1])


@pytest.mark.parametrize("name", mvjax.__all__)
def test_every_name_is_there(name):
    assert name in dir(mvjax)
    assert getattr(mvjax, name) is not None


@pytest.mark.parametrize(("package", "here"), [(mvjax, {"UserError", "__version__"}), (mvjax.engine, set())])
def test_a_type_checker_sees_the_same_names_from_the_same_modules(package, here):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(package.__all__) == {*seen, *here}
    for name, (module, its_name) in seen.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), its_name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'mvjax' has no attribute 'Motor'"):
        mvjax.Motor  # noqa: B018
