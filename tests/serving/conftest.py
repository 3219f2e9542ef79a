"""A hash model behind HTTP, one server for most tests."""

import pytest

pytest.importorskip("fastapi")

from served_hash import driving, serving


@pytest.fixture(scope="session")
def driver():
    with driving() as driver:
        yield driver


@pytest.fixture(scope="session")
def served(driver):
    with serving(driver) as served:
        yield served
