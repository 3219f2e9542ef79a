"""The wheel: it holds every file of both packages and no other, and works in an environment of its own."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"mvjax": ROOT / "mvjax", "mvjax_kernels": ROOT / "kernels" / "mvjax_kernels"}
TRANSCRIPT = """Two parts.
<Parallel>
<Goal>
<Outline>
1: a
</Outline>
<Outline>
2: b
</Outline>
</Goal>
<Path>
1: one
</Path>
<Path>
2: two
</Path>
<Conclusion>
both
</Conclusion>
</Parallel>
Done."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the tree, built from a copy: setuptools would leave files of earlier builds in the tree and find
    them again."""
    tree, output = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("mvjax", "kernels"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(output)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True, text=True)
    (path,) = output.glob("*.whl")
    return path


def test_wheel_holds_every_file_of_both_packages(wheel):
    files = {
        f"{name}/{path.relative_to(folder)}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.name != "README.md"
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files
    assert {"mvjax/py.typed", "mvjax_kernels/py.typed", "mvjax/assets/demo-adapter.safetensors"} < held
    assert {f"mvjax/serving/page/{name}" for name in ("index.html", "page.css", "page.js", "icon.svg")} < held


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheel_works_in_an_empty_environment(wheel, tmp_path):
    """Core dependencies only, nothing of the tree on the path, no folder of the tree as the working directory."""
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / "bin"
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(program: str, *words: str) -> str:
        command = [str(bin / program), *words]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    run("pip", "install", "--quiet", str(wheel))
    version = wheel.name.split("-")[1]
    assert run("mvjax", "--version") == f"mvjax {version}\n"
    assert run("python", "-c", "import mvjax; print(mvjax.__version__)") == f"{version}\n"
    origin = run("python", "-c", "import mvjax, mvjax_kernels; print(mvjax.__file__, mvjax_kernels.__file__)")
    assert all(path.startswith(str(tmp_path)) for path in origin.split())

    (tmp_path / "transcript.txt").write_text(TRANSCRIPT)
    assert "block of 2 paths" in run("mvjax", "inspect", "transcript.txt", "--picture", "mask.png")
    assert (tmp_path / "mask.png").stat().st_size > 0
    run("mvjax", "curate", "synthetic", "--output", "records.jsonl", "--count", "2")
    assert len((tmp_path / "records.jsonl").read_text().splitlines()) == 2
    prompts = "from mvjax.curator import prompt_files as p; print(sorted(p.load().files))"
    assert "judge" in run("python", "-c", prompts)
