"""For all tests: `tests/support` on the path, what JAX compiles kept for the next run, no deadlines of Hypothesis."""

import os
import sys
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS / "support"))

# The workers of one run share it too. Set before anything imports JAX.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(TESTS.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "1")

# How long an example takes says more about the machine than about the code; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("mvjax", deadline=None)
hypothesis.settings.load_profile("mvjax")


@pytest.fixture(scope="session")
def gcs_bucket() -> Generator:
    """An empty bucket on a server of this machine, and the environment that leads there.

    One for all tests of a process: TensorStore reads its environment only once.
    """
    from bucket_server import bucket_server

    with bucket_server() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        yield bucket


@pytest.fixture
def s3_bucket(monkeypatch) -> Generator[str]:
    """The address of an empty bucket of moto's server, under an explicit endpoint."""
    import urllib.request

    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    names = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "of-a-test", "AWS_SECRET_ACCESS_KEY": "of-a-test"}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    try:
        request = urllib.request.Request(f"{url}/bucket", method="PUT")
        urllib.request.urlopen(request, timeout=30).read()
        yield "s3://bucket"
    finally:
        server.stop()


@pytest.fixture
def arrays_of_any_type():
    """Calls with arrays of a wrong type or shape, on purpose: it is the library's own check that is to refuse them."""
    from jaxtyping import config

    before = config.jaxtyping_disable
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", before)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one file share engines, models and compiled programs, so one worker runs them (`--dist loadgroup`)."""
    for item in items:
        if not any(item.iter_markers("xdist_group")):
            item.add_marker(pytest.mark.xdist_group(item.path.relative_to(TESTS).as_posix()))
