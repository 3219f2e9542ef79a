"""What the options of all verbs have in common."""

import dataclasses
import importlib
import pkgutil

import pytest

from mvjax import cli
from mvjax.cli.bench import BENCHES
from mvjax.hub.cache import Cached

MODELS = ("model", "source", "base", "likelihood_model")
OTHERS = ("tokenizer", "likelihood_tokenizer", "adapter")


def commands():
    """Each verb's dataclass of options, but for those that a configuration has."""
    modules = [importlib.import_module(f"mvjax.cli.{module.name}") for module in pkgutil.iter_modules(cli.__path__)]
    found = {kind for module in modules for kind in vars(module).values() if dataclasses.is_dataclass(kind)}
    return {kind for kind in found if kind.__module__.startswith("mvjax.cli.")} | {*BENCHES.values()}


@pytest.mark.parametrize("command", sorted(commands(), key=lambda kind: kind.__name__))
def test_names_of_models_bring_their_options(command):
    """Whoever takes a model takes a tokenizer for it, and both take a cache."""
    named = {field.name for field in dataclasses.fields(command) if "Path" in str(field.type)}
    assert not named & {*MODELS, *OTHERS} or issubclass(command, Cached)
    assert not named & {*MODELS} or named & {"tokenizer", "likelihood_tokenizer"}


def test_there_are_such_commands():
    names = {command.__name__ for command in commands() if issubclass(command, Cached)}
    assert {"ConvertArguments", "GenerateArguments", "EngineBench", "Probe", "Llm", "FetchArguments"} <= names
