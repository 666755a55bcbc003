"""``DDIMCACHE_REPLAY`` chooses how recordings are replayed, at the time of the recording."""

from __future__ import annotations

import pytest

from ddimcache.runtime import devices
from ddimcache.runtime.recording import record, replay_allowed

pytestmark = pytest.mark.opencl

EXTENSIONS = {"command-buffer": "cl_khr_command_buffer", "recordable-queue": "cl_qcom_recordable_queues"}


@pytest.mark.parametrize("method", EXTENSIONS)
def test_a_method_by_name(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_REPLAY", method)
    assert replay_allowed()
    if EXTENSIONS[method] in devices.list_devices()[0].extensions:
        assert record(lambda: None).summary().method == method
    else:
        with pytest.raises(RuntimeError, match=f"has no {EXTENSIONS[method]}: set it to auto, or to plain"):
            record(lambda: None)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DDIMCACHE_REPLAY", raising=False)
    found = devices.list_devices()[0].extensions
    there = {method for method, extension in EXTENSIONS.items() if extension in found}
    assert record(lambda: None).summary().method in {"plain", *there}


def test_plain_and_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_REPLAY", "plain")
    assert record(lambda: None).summary().method == "plain"
    monkeypatch.setenv("DDIMCACHE_REPLAY", "off")
    assert not replay_allowed()
    with pytest.raises(RuntimeError, match="DDIMCACHE_REPLAY is off"):
        record(lambda: None)


def test_a_wrong_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDIMCACHE_REPLAY", "fast")
    message = 'DDIMCACHE_REPLAY is "fast", but can be: auto, command-buffer, recordable-queue, plain, off'
    for call in (replay_allowed, lambda: record(lambda: None)):
        with pytest.raises(ValueError, match=message):
            call()
