"""Records are read as what they are: lines from outside, written by another version on another device."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddimcache.compiler.target import PROFILES, profile, with_decisions
from ddimcache.errors import BundleError, UsageError
from ddimcache.kernels.matmul.kernel import panel_width
from ddimcache.kernels.workload import Workload, parse
from ddimcache.records import from_json, to_json
from ddimcache.schedules import tuning_records as store
from ddimcache.schedules.spaces import VERSIONS, defaults, problem, space_of, tiles_for_panels
from tests.kit.tuning import record, write_folder

PRODUCT = Workload("matmul", (4096, 320, 320), "float32", "int8")
WORKLOADS = [
    "matmul 4096x320x320",
    "matmul 1x320x1280",
    "matmul 77x768x320",
    "geglu 4096x320x2560",
    "conv2d 1x64x64x320x320x3x3x1x1",
    "conv2d 1x64x64x4x320x3x3x1x1",
    "conv2d 1x64x64x320x4x3x3x1x1",
    "conv2d 1x32x32x320x320x3x3x2x2",
    "attention 1x4096x4096x8x40",
    "attention 1x4096x77x8x40",
    "attention 1x4096x4096x1x512",
]


def workload(text: str, target: str) -> Workload:
    weights = "none" if text.startswith("attention") else "int8"
    return parse(f"{text} {PROFILES[target].compute_dtype} {weights}")


@pytest.mark.parametrize("target", sorted(PROFILES))
@pytest.mark.parametrize("text", WORKLOADS)
def test_the_defaults_are_in_every_space(text: str, target: str) -> None:
    tiles, asked = profile(target).tiles, workload(text, target)
    space = space_of(tiles, asked)
    default = defaults(tiles, asked, space)
    assert problem(tiles, asked, default) is None
    assert sum(len(numbers) > 1 for numbers in space.values()) >= 2
    again = with_decisions(tiles, {place: number for place, number in default.items() if place != "columns"})
    assert again == tiles


def test_the_workload_of_many_large_pictures_is_read_again() -> None:
    product = Workload("matmul", (16 * 1024 * 1024, 16, 128), "float32", "int8")
    assert parse(product.text) == product


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    kept = record(PRODUCT, {"blocks.rows": 64, "columns": 16}, "opencl")
    folder = write_folder(tmp_path, "opencl", [kept])
    log = store.read_log(folder, profile("opencl"))
    assert log.records == {PRODUCT: kept}
    assert log.skipped == ()
    device, skipped = store.tuned_profile("opencl", str(folder))
    assert skipped == ()
    assert (device.tiles_of(PRODUCT).columns, device.tiles_of(PRODUCT).blocks.rows) == ((16,), 64)  # type: ignore[union-attr]
    other = Workload("matmul", (4096, 320, 640), "float32", "int8")
    assert device.tiles_of(other) == device.tiles == profile("opencl").tiles


def test_a_later_record_replaces_an_earlier_one(tmp_path: Path) -> None:
    records = [record(PRODUCT, {"blocks.rows": rows}, "opencl") for rows in (64, 32)]
    log = store.read_log(write_folder(tmp_path, "opencl", records), profile("opencl"))
    assert log.decisions == {PRODUCT: {"blocks.rows": 32}}


GOOD = to_json(record(PRODUCT, {"blocks.rows": 64}, "opencl"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": VERSIONS["matmul"] + 1}, "stale: of version"),
        ({"op": "fft"}, "family 'fft' is none of"),
        ({"shape": [4096, 320]}, "matmul has sizes rows, depth, channels"),
        ({"shape": [4096, 320, 0]}, "shape[2]"),
        ({"device": "adreno-740"}, "adreno-740, not opencl"),
        ({"decisions": {"blocks.rows": 65}}, "stale: blocks.rows cannot be 65"),
        ({"decisions": {"blocks.colour": 1}}, "stale: matmul 4096x320x320 has no decision 'blocks.colour'"),
        ({"decisions": {"__class__.x": 1}}, "has no decision"),
        ({"decisions": {"blocks.rows": "64"}}, "expected a whole number"),
        ({"decisions": {"blocks.rows": 10**30}}, "stale: blocks.rows cannot be"),
        ({"decisions": {"blocks.rows": 384, "blocks.columns": 320, "columns": 80}}, None),
        ({"seconds": -1}, "seconds: is -1"),
        ({"seconds": "fast"}, "seconds: expected a finite number"),
        ({"method": "guessed"}, "none of: measured, modelled"),
        ({"tool": "x" * 5000}, "at most 4096 are read"),
        ({"more": 1}, "unknown key 'more'"),
    ],
)
def test_what_is_not_understood_is_skipped_and_told(
    tmp_path: Path, change: dict, message: str | None
) -> None:
    folder = write_folder(tmp_path, "opencl", [])
    lines = [json.dumps({**GOOD, **change}), json.dumps({**GOOD, "shape": [64, 320, 320]})]
    (folder / store.RECORDS).write_text("\n".join(lines) + "\n")
    log = store.read_log(folder, profile("opencl"))
    assert Workload("matmul", (64, 320, 320), "float32", "int8") in log.records
    if message is None:
        assert len(log.records) == 2
        return
    assert len(log.records) == 1
    [told] = log.skipped
    assert message in told
    assert "line 1" in told
    assert len(told) < 500


@pytest.mark.parametrize(
    "text", ["{", "[]", '"', "null", "{}", '{"op": NaN}', "\x00\x01", "1e999", "[" * 3000]
)
def test_no_line_breaks_the_reader(tmp_path: Path, text: str) -> None:
    folder = write_folder(tmp_path, "opencl", [])
    (folder / store.RECORDS).write_text(text + "\n")
    log = store.read_log(folder, profile("opencl"))
    assert (len(log.records), len(log.skipped)) == (0, 1)


@given(damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_damaged_lines_are_read_or_skipped(damage: list[tuple[int, int]]) -> None:
    line = bytearray(json.dumps(GOOD).encode())
    for place, byte in damage:
        line[place % len(line)] = byte
    try:
        found = from_json(store.TuningRecord, store.read_line(bytes(line)))
    except ValueError:
        return
    reason = store.stale(found, profile("opencl"))
    assert reason is None or isinstance(reason, str)


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of tuning records"):
        store.tuned_profile("opencl", str(tmp_path))
    write_folder(tmp_path, "adreno-740", [])
    with pytest.raises(UsageError, match="tuned for adreno-740, not for opencl"):
        store.tuned_profile("opencl", str(tmp_path))
    (tmp_path / store.MANIFEST).write_text('{"format": 1}')
    with pytest.raises(BundleError, match=r"manifest.json: cannot be read"):
        store.tuned_profile("opencl", str(tmp_path))
    assert store.tuned_profile("opencl", "none")[0].tuned == {}


def test_a_manifest_of_the_format_before_is_read(tmp_path: Path) -> None:
    facts = {
        "method": "modelled",
        "device": "a device",
        "driver": "1",
        "versions": {},
        "date": "",
        "command": "",
    }
    (tmp_path / store.MANIFEST).write_text(json.dumps({"format": 1, "profile": "opencl", **facts}))
    manifest = store.read_manifest(tmp_path)
    [(key, origin)] = manifest.origins.items()
    assert (manifest.profile, origin.method, origin.device, key) == (
        "opencl",
        "modelled",
        "a device",
        origin.key,
    )
    (tmp_path / store.MANIFEST).write_text(json.dumps({"format": 1, "profile": "opencl", **facts, "more": 1}))
    with pytest.raises(BundleError, match="unknown key 'more'"):
        store.read_manifest(tmp_path)


def test_what_was_measured_goes_before_what_was_modelled(tmp_path: Path) -> None:
    measured = record(PRODUCT, {"blocks.rows": 64}, "opencl")
    model = record(PRODUCT, {"blocks.rows": 32}, "opencl", method="modelled", error=None)
    for entries in ([measured, model], [model, measured]):
        folder = write_folder(tmp_path / entries[0].method, "opencl", entries)
        assert store.read_log(folder, profile("opencl")).records == {PRODUCT: measured}
        assert store.read_log(folder, profile("opencl"), "modelled").records == {PRODUCT: model}


def test_a_device_in_a_manifest_keeps_its_note() -> None:
    first = store.Origin("measured", "a phone", "E031.41", {}, "2026-01-01", "tune a", "cold")
    again = dataclasses.replace(first, date="2026-02-02", command="tune b", note="")
    other = dataclasses.replace(first, driver="E031.50")
    manifest = store.TuningManifest(store.FORMAT, "adreno-740").having(first).having(again).having(other)
    assert len(manifest.origins) == 2
    kept = manifest.origins[first.key]
    assert (kept.date, kept.note) == ("2026-02-02", "cold")


def test_a_fifo_in_place_of_records_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, "opencl", [])
    os.mkfifo(tmp_path / store.RECORDS)
    with pytest.raises(BundleError, match="is no plain file"):
        store.tuned_profile("opencl", str(tmp_path))


def test_a_torn_line_is_told_and_the_next_one_is_whole(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "opencl", [record(PRODUCT, {"blocks.rows": 64}, "opencl")])
    path = folder / store.RECORDS
    path.write_bytes(path.read_bytes()[:-20])
    store.append(path, record(PRODUCT, {"blocks.rows": 32}, "opencl"))
    log = store.read_log(folder, profile("opencl"))
    assert log.decisions == {PRODUCT: {"blocks.rows": 32}}
    assert len(log.skipped) == 1


def test_a_writer_that_is_killed_leaves_whole_lines(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "opencl", [])
    code = (
        "import sys; from pathlib import Path; from tests.kit.tuning import *\n"
        "product = Workload('matmul', (64, 320, 320), 'float32', 'int8')\n"
        "entry = record(product, {'blocks.rows': 64}, 'opencl')\n"
        "print(flush=True)\n"
        "while True: store.append(Path(sys.argv[1]), entry)\n"
    )
    root = Path(__file__).parents[2]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder / store.RECORDS)], cwd=root, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.readline()
    time.sleep(0.3)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    log = store.read_log(folder, profile("opencl"))
    assert len(log.records) == 1
    assert log.skipped == ()


def test_the_records_that_come_with_the_package_are_all_good() -> None:
    folders = [path for path in (Path(store.__file__).parents[1] / "tune_logs").iterdir() if path.is_dir()]
    assert folders
    for folder in folders:
        _, skipped = store.tuned_profile(folder.name)
        assert skipped == ()
        assert store.read_log(folder, profile(folder.name)).records


@pytest.mark.parametrize(
    "text",
    [
        "conv2d 1x64x64x320x320x3x3x1x1 float32 int8",
        "matmul 4096x1280x320 float32 int8",
        "geglu 1024x640x5120 float32 int8",
        "matmul 4096x1280x320 int8 int8",
        "matmul 3x320x1280 float32 float32",
    ],
)
def test_panels_of_another_shape_leave_a_record_out_and_stay_small(text: str) -> None:
    tiles, workload = profile("opencl").tiles, parse(text)
    for width in space_of(tiles, workload)["columns"]:
        chosen, decisions = tiles_for_panels(tiles, workload, None, width)
        assert decisions is None
        assert panel_width(workload.sizes[4 if workload.family == "conv2d" else 2], chosen.columns) == width
        assert problem(chosen, workload, {}) is None
        own = {"columns": width}
        if problem(tiles, workload, own) is None:
            assert tiles_for_panels(tiles, workload, own, width)[1] == own
        other = next(each for each in space_of(tiles, workload)["columns"] if each != width)
        assert tiles_for_panels(tiles, workload, {"columns": other}, width)[1] is None
