"""``ddimcache profile``: a real image of a small model, here and over RPC; keys, messages and files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddimcache.runtime import peaks
from ddimcache.runtime.peaks import METHOD, Peaks
from tests.fakes.running_server import KEY, RunningServer, RunningTracker
from tests.kit.family import stand_in
from tests.kit.shared_bundles import compiled
from tests.profile.test_report import check_trace

KEYS = {
    *("bundle", "model", "device", "device_name", "driver", "prompt", "negative_prompt", "seed", "weights"),
    *("size", "batch", "cut", "dtype", "steps", "cache_interval", "guidance", "full_steps", "cached_steps"),
    *("unet_calls_a_step", "seconds", "functions", "kernels", "layers", "peaks", "memory", "peak_bytes"),
}
KERNEL_KEYS = {
    *("name", "component", "calls", "seconds", "share", "flops", "bytes", "gflops", "gbytes", "roofline"),
    *("limit", "seconds_minimum", "layers"),
}


@pytest.fixture(scope="module")
def bundle() -> Path:
    """A small model for OpenCL, whose kernels another test has the driver compile too."""
    return compiled(stand_in("tiny-sd21"), target="opencl", weights="fp32").folder


@pytest.fixture
def known_peaks(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that are kept already; their measurement has tests of its own."""

    def measure(_: int) -> Peaks:
        from ddimcache.runtime import devices

        info = devices.list_devices()[0]
        return Peaks(METHOD, info.name, info.driver_version, {"float32": 100.0}, 10.0, "2026-11-20")

    with monkeypatch.context() as patch:
        patch.setattr(peaks, "measure", measure)
        peaks.device_peaks(0)


def check_facts(facts: dict, extra: set[str] = frozenset()) -> None:
    assert set(facts) == KEYS
    assert all(set(kernel) == KERNEL_KEYS | extra for kernel in facts["kernels"])
    assert sum(kernel["share"] for kernel in facts["kernels"]) == pytest.approx(1)
    assert sum(layer["seconds"] for layer in facts["layers"]) == pytest.approx(facts["seconds"]["kernels"])
    assert facts["seconds"]["total"] >= facts["seconds"]["kernels"]
    functions = {entry["function"]: entry["calls"] for entry in facts["functions"]}
    times = facts["unet_calls_a_step"]
    assert functions["full"] == times * facts["full_steps"]
    assert functions["cached"] == times * facts["cached_steps"]
    assert (functions["project_context"], functions["embed_time"], functions["decode"]) == (times, 1, 1)
    times = [kernel["seconds"] for kernel in facts["kernels"]]
    assert times == sorted(times, reverse=True)
    assert facts["memory"]["kinds"]


@pytest.mark.opencl
class TestHere:
    def test_everything(self, run, bundle, known_peaks, tmp_path):
        page, trace = tmp_path / "profile.html", tmp_path / "trace.json"
        arguments = ["--steps", 3, "--cache-interval", 2, "--json", "--html", page, "--trace", trace]
        done = run("profile", bundle, *arguments)
        assert done.code == 0, done.err
        facts = done.json
        check_facts(facts)
        assert (facts["full_steps"], facts["cached_steps"], facts["unet_calls_a_step"]) == (2, 1, 2)
        assert facts["peaks"] == {
            "gflops": {"float32": 100.0},
            "gbytes": 10.0,
            "measured": "2026-11-20",
            "kept": True,
        }
        check_trace(json.loads(trace.read_text()))
        assert "tiny-sd21" in page.read_text()
        assert "profiling: an image of 3 steps" in done.err

    def test_table(self, run, bundle, known_peaks):
        done = run("profile", bundle, "--steps", 2, "--guidance", 1, "--top", 3)
        assert done.code == 0, done.err
        words = (
            "2 steps (1 full, 1 cached), 1 UNet call a step",
            "unet.cached",
            "of roofline",
            "100 GFLOP/s",
        )
        for text in words:
            assert text in done.out
        assert "kernels more" in done.err

    def test_lists_of_another_compilation(self, run, bundle, known_peaks, tmp_path):
        import shutil

        from ddimcache.manifest import file_entry
        from ddimcache.records import to_json
        from tests.runtime.test_bundle import edit, put

        other = Path(shutil.copytree(bundle, tmp_path / "other"))
        path = other / "unet.launches.json"
        lists = json.loads(path.read_text())
        lists["functions"]["full"].reverse()
        path.write_text(json.dumps(lists))
        edit(other, put("files", path.name, to_json(file_entry(path))))
        done = run("profile", other, "--steps", 1, "--guidance", 1)
        assert done.code == 1
        assert "its lists of launches say" in done.err


@pytest.mark.opencl
def test_over_rpc(run, bundle, known_peaks, tmp_path):
    server = RunningServer(tmp_path / "store", device="opencl")
    try:
        options = ["--device", server.address, "--steps", 2, "--cache-interval", 2, "--json"]
        done = run("profile", bundle, *options)
    finally:
        server.stop()
    assert done.code == 0, done.err
    check_facts(done.json)
    assert done.json["device"].startswith("rpc://127.0.0.1:")
    assert done.json["peaks"]["kept"]
    assert KEY not in done.out


@pytest.mark.opencl
class TestShared:
    def test_runs_among_the_devices_of_a_tracker(self, run, bundle, known_peaks, tmp_path, monkeypatch):
        monkeypatch.setenv("DDIMCACHE_KEY", KEY)
        tracker = RunningTracker()
        servers = [tracker.server(tmp_path / f"store{number}", device="opencl") for number in range(2)]
        tracker.wait_for([True, True])
        folder = tmp_path / "profiles"
        command = ["profile", bundle, "--runs", 3, "-o", folder, "--steps", 2, "--guidance", 1, "--json"]
        command += ["--tracker", tracker.place, "--device-key", "lab"]
        done = run(*command)
        assert done.code == 0, done.err
        (facts,) = done.json["profiles"]
        check_facts({name: facts[name] for name in KEYS}, extra={"seconds_of_runs"})
        assert sum(done.json["by_device"].values()) == len(facts["runs"]) == 3
        totals = sorted(each["seconds"] for each in facts["runs"])
        assert facts["seconds"]["kernels"] == totals[1]
        for kernel in facts["kernels"]:
            spread = kernel["seconds_of_runs"]
            assert spread["least"] <= spread["median"] <= spread["most"]
        for each in facts["runs"]:
            check_trace(json.loads((folder / each["trace"]).read_text()))
        assert "tiny-sd21" in (folder / facts["page"]).read_text()

        # What is there is taken over; a run whose trace is gone is measured again, where one server is left.
        servers[0].kill()
        (folder / facts["runs"][1]["trace"]).unlink()
        again = run(*command)
        assert again.code == 0, again.err
        assert again.json["measured_before"] == 2
        assert sum(again.json["by_device"].values()) == 1
        assert servers[1].stop()[0] == 0
        assert tracker.stop()[0] == 0

    def test_bundles_beside_each_other(self, run, bundle, known_peaks, tmp_path):
        import shutil

        other = Path(shutil.copytree(bundle, tmp_path / "other"))
        options = ["-o", tmp_path / "out", "--steps", 1, "--guidance", 1, "--top", 1]
        done = run("profile", bundle, other, *options, "--device", "opencl")
        assert done.code == 0, done.err
        assert f"{bundle} on " in done.out
        assert f"{other} on " in done.out
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            *("results.jsonl", "bundle.html", "bundle-1.trace.json", "other.html", "other-1.trace.json")
        }


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--steps", "0"], "--steps: 0 is outside 1 … 1000"),
            (["--cache-interval", "0"], "--cache-interval: 0 is below 1"),
            (["--guidance", "nan"], "--guidance: nan is no finite number"),
            (["--seed", "-1"], "--seed: -1 is outside"),
            (["--top", "0"], "--top: 0 is below 1"),
            (["--html", "/no/such/page.html"], "--html: folder /no/such does not exist"),
            (["--trace", "/"], "--trace: / is a folder"),
            ([], "BUNDLE: "),
            (["--runs", "0"], "--runs: 0 is outside 1 … 1000"),
            (["--runs", "2"], "--output: is missing"),
            (["--device", "opencl", "--device", "opencl:1"], "--output: is missing"),
            (["--tracker", "127.0.0.1:1"], "--output: is missing"),
            (["-o", "out", "--runs", "2", "--html", "a.html"], "--html: is for one image"),
            (["-o", "out", "--tracker", "127.0.0.1:1"], "--device-key: is missing"),
            (["--seconds-per-run", "-1"], "--seconds-per-run: -1 is no time"),
        ],
    )
    def test_wrong_usage(self, run, fake_bundle, options, message):
        done = run("profile", fake_bundle, *options)
        assert done.code == 2
        assert message in done.err

    def test_a_bundle_for_the_cpu(self, run, fake_bundle):
        done = run("profile", fake_bundle)
        assert (
            "was compiled for llvm, whose kernels nobody times; compile the model with --target opencl"
            in done.err
        )

    def test_no_bundle(self, run, tmp_path):
        done = run("profile", tmp_path)
        assert done.code == 1
        assert "has no manifest.json, so it is no bundle" in done.err
