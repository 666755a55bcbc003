"""The limits of a device: measured, kept, and measured again where what was kept is of no use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ddimcache.records import to_json
from ddimcache.runtime import devices, peaks
from ddimcache.runtime.peaks import METHOD, Peaks, device_peaks

pytestmark = pytest.mark.opencl


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of this device's limits, whose measurement is counted and takes no time."""
    monkeypatch.setenv("DDIMCACHE_CACHE", str(tmp_path))
    info = devices.list_devices()[0]

    def measure(index: int) -> Peaks:
        calls.append(index)
        return Peaks(
            METHOD, info.name, info.driver_version, {"float32": 100.0 + len(calls)}, 10.0, "2026-11-20"
        )

    calls: list[int] = []
    monkeypatch.setattr(peaks, "measure", measure)
    return peaks._path(info)


def test_a_measurement() -> None:
    found = peaks.measure(0)
    info = devices.list_devices()[0]
    assert (found.device, found.driver) == (info.name, info.driver_version)
    assert set(found.gflops) == ({"float32", "float16"} if info.fp16 else {"float32"})
    # Anything that runs at all does more than this, and nothing there is does a million times as much.
    assert 0.1 < found.gflops["float32"] < 1e6
    assert 0.05 < found.gbytes < 1e5


def test_measured_once_and_again_when_asked(kept: Path) -> None:
    first, was_kept = device_peaks(0)
    assert not was_kept
    assert device_peaks(0) == (first, True)
    again, was_kept = device_peaks(0, again=True)
    assert not was_kept
    assert again != first
    assert device_peaks(0) == (again, True)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: b"not JSON",
        lambda found: json.dumps({**to_json(found), "more": 1}).encode(),
        lambda found: json.dumps(to_json(replace(found, gbytes=-1.0))).encode(),
        lambda found: json.dumps(to_json(replace(found, gflops={}))).encode(),
        lambda found: json.dumps(to_json(replace(found, driver="another"))).encode(),
        lambda found: json.dumps(to_json(replace(found, method=METHOD + 1))).encode(),
    ],
)
def test_what_is_kept_is_not_trusted(kept: Path, change) -> None:
    first, _ = device_peaks(0)
    kept.write_bytes(change(first))
    second, was_kept = device_peaks(0)
    assert not was_kept
    assert second != first
    assert device_peaks(0) == (second, True)


def test_a_folder_that_cannot_be_written_is_no_error(kept: Path) -> None:
    kept.parent.parent.joinpath("peaks").write_text("a file where the folder would be")
    _, was_kept = device_peaks(0)
    assert not was_kept
    assert not kept.exists()
