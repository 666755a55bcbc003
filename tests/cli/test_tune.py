"""``ddimcache tune`` on small kernels, and what is wrong usage."""

from __future__ import annotations

import json

import pytest

from ddimcache.compiler.target import profile
from ddimcache.kernels.workload import parse
from ddimcache.schedules import tuning_records as store
from tests.fakes.running_server import KEY, RunningServer
from tests.kit.tuning import record, write_folder

SMALL = "matmul 32x32x32 float32 int8"


def candidates(path):
    """The trials of a file, without the longer runs that a win needs."""
    return [line for line in map(json.loads, path.open()) if not line["confirms"]]


def test_tunes_keeps_and_goes_on(run, tmp_path):
    folder = tmp_path / "log"
    options = ["--device", "llvm", "--workload", SMALL, "-o", folder, "--json"]
    first = run("tune", *options, "--trials", 1).json
    assert (first["method"], first["stopped"], first["skipped"]) == ("measured", False, [])
    [workload] = first["workloads"]
    assert (workload["workload"], workload["trials"]) == (SMALL, 1)
    manifest = store.read_manifest(folder)
    [origin] = manifest.origins.values()
    assert (manifest.profile, origin.method, origin.driver) == ("llvm", "measured", "LLVM")
    trials = folder / "trials.jsonl"
    assert len(candidates(trials)) == 1
    again = run("tune", *options, "--trials", 2).json["workloads"][0]
    assert again["trials"] == 2
    assert len(candidates(trials)) == 2
    assert len({json.dumps(line["decisions"]) for line in candidates(trials)}) == 2
    store.read_log(folder, profile("llvm"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], "--trials: 0 is below 1"),
        (["--time-limit", "-1"], "--time-limit: -1 is no time"),
        (["--family", "fft"], "--family: 'fft' is none of: matmul"),
        (["--workload", "matmul 3x3 float32 int8"], "--workload: 'matmul 3x3 float32 int8' is no workload"),
        (["--workload", "fft 3x3x3 float32 int8"], "--workload: family 'fft' is none of"),
        (["--workload", "matmul 3x3x3 word7 int8"], "--workload: dtype 'word7' is none of: float32"),
        (["--workload", "matmul 3x3x3 float32 int4"], "--workload: weights 'int4' are none of: float32"),
        (["--workload", "matmul 3x3x3 float32 none"], "--workload: weights 'none' are none of: float32"),
        (["--workload", "matmul 3x9x3 float32 int8g4"], "--workload: groups of 4 do not share a depth of 9"),
        (["--workload", "matmul 3x9x3 float32 float16g3"], "--workload: weights 'float16g3' are none of"),
        (["--workload", "attention 1x3x3x1x8 float32 int8"], "--workload: attention has no weights"),
        (["--workload", "geglu 3x3x3 float32 int8"], "--workload: channels are values and gates together"),
        (["--workload", "matmul 99999x99999x3 float32 int8"], "--workload: has a tensor of 9999800001 num"),
        (["--target", "vulkan"], "target 'vulkan' is not known"),
        (["--engine", "genetic"], "--engine: 'genetic' is none of: decisions, metaschedule"),
        (["--host", "x86_64-linux-gnu"], "--host: is for devices behind RPC"),
        (["--device", "lab"], "--device lab: is no device that others can share work with"),
        (["--tracker", "127.0.0.1:1"], "--device-key: is missing"),
        (["--device", "rpc://127.0.0.1:9"], "--device: no key in"),
        (["--trial-memory", "much"], "--trial-memory: 'much' is no number of bytes"),
        (["--family", "attention", "--workload", SMALL], "--family: nothing of the model"),
    ],
)
def test_wrong_usage(run, tmp_path, options, message):
    done = run("tune", "--device", "llvm", "-o", tmp_path / "log", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "log").exists()


def test_the_lab_is_of_one_target(run, tmp_path):
    done = run("tune", "--device", "lab", "--target", "llvm", "-o", tmp_path / "log")
    assert done.code == 2
    assert "--device lab: is of an Adreno 740" in done.err


@pytest.mark.opencl
def test_tunes_behind_rpc_and_keeps_no_key(run, tmp_path):
    server = RunningServer(tmp_path / "store", "opencl")
    folder = tmp_path / "log"
    options = ["--workload", SMALL, "-o", folder, "--json"]
    first = run("tune", "--device", server.address, *options, "--trials", 1).json
    assert first["method"] == "measured"
    [workload] = first["workloads"]
    assert workload["statuses"] == {"good": 1}
    manifest = store.read_manifest(folder)
    [key] = manifest.origins
    assert manifest.profile == "opencl"
    assert KEY not in (folder / store.MANIFEST).read_text()
    assert {line["outcome"]["origin"] for line in candidates(folder / "trials.jsonl")} == {key}
    wrong = run("tune", "--device", server.address, "--target", "llvm", *options)
    assert wrong.code == 2
    assert "llvm runs on llvm, this is opencl" in wrong.err
    code, log = server.stop()
    assert (code, "Traceback" in log) == (0, False)
    # The same device without a server goes on where that was.
    again = run("tune", "--device", "opencl", *options, "--trials", 2).json["workloads"][0]
    assert again["trials"] == 2
    assert set(store.read_manifest(folder).origins) == {key}


def test_no_device_behind_rpc_is_told(run, tmp_path):
    done = run("tune", "--device", "rpc://127.0.0.1:9/k", "--workload", SMALL, "-o", tmp_path / "log")
    assert done.code == 1
    assert "nobody listens" in done.err
    assert not (tmp_path / "log").exists()


def test_a_folder_of_another_device_is_left_alone(run, tmp_path):
    folder = write_folder(tmp_path / "log", "adreno-740", [])
    before = (folder / store.MANIFEST).read_text()
    done = run("tune", "--device", "llvm", "--workload", SMALL, "-o", folder)
    assert done.code == 2
    assert "holds records for adreno-740, not for llvm" in done.err
    assert (folder / store.MANIFEST).read_text() == before


def test_a_bundle_without_workloads_says_so(run, tmp_path, fake_bundle):
    done = run("tune", fake_bundle, "--device", "llvm", "-o", tmp_path / "log")
    assert done.code == 2
    assert "--family: nothing of the model is of these families" in done.err
    assert not (tmp_path / "log").exists()


def test_records_travel_by_metaschedules_database(run, tmp_path):
    source = write_folder(tmp_path / "log", "llvm", [record(parse(SMALL), {"blocks.rows": 16}, "llvm")])
    there = ["--device", "llvm", "--export-metaschedule", tmp_path / "database", "-o", source, "--json"]
    assert run("tune", *there).json["exported"] == 1
    back = ["--device", "llvm", "--import-metaschedule", tmp_path / "database", "--json"]
    back += ["-o", tmp_path / "new"]
    assert run("tune", *back).json["imported"] == 1
    kept = [store.read_log(folder, profile("llvm")).records for folder in (source, tmp_path / "new")]
    assert kept[0] == kept[1] != {}
    assert run("tune", *back).json["imported"] == 0  # no better than what is kept
