"""Notices of a host's metadata server: each is told once, and who is told decides nothing alone."""

import json
import time

import pytest
from metadata_server import metadata_server

from mvjax.training.notices import Notices


@pytest.fixture
def told(monkeypatch):
    """What a look reports, and the values that the server has."""
    found = []
    with metadata_server() as (address, values):
        monkeypatch.setenv("GCE_METADATA_HOST", address)
        yield (
            found,
            values,
            Notices(lambda text: found.append(("save", text)), lambda text: found.append(("stop", text))),
        )


def test_each_notice_is_told_once(told):
    found, values, notices = told
    notices.look()
    assert found == []
    values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    notices.look()
    notices.look()
    assert found == [("save", "TERMINATE_ON_HOST_MAINTENANCE")]
    values["maintenance-event"] = "NONE"
    notices.look()
    values["maintenance-event"] = "TERMINATE_ON_HOST_MAINTENANCE"
    notices.look()
    assert len(found) == 2
    values["preempted"] = "TRUE"
    notices.look()
    notices.look()
    assert found[2:] == [("stop", "pre-empted")]


@pytest.mark.parametrize(("status", "count"), [("PENDING", 0), ("ONGOING", 1)])
def test_maintenance_that_is_only_scheduled_is_not_told(told, status, count):
    found, values, notices = told
    values["upcoming-maintenance"] = json.dumps({"maintenanceStatus": status, "type": "SCHEDULED"})
    notices.look()
    values["upcoming-maintenance"] = "no notifications have been received yet, try again later"
    notices.look()
    assert found == [("save", "maintenance ONGOING")] * count


def test_a_server_that_is_not_there_tells_nothing(monkeypatch):
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:9")
    found = []
    with Notices(found.append, found.append, every=0.01):
        time.sleep(0.05)
    monkeypatch.delenv("GCE_METADATA_HOST")
    with Notices(found.append, found.append) as notices:
        assert not notices._thread.is_alive()  # no TPU here
    assert found == []
