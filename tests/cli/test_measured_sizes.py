"""Verbs that measure take ``--size`` where a bundle makes pictures of several."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddimcache.compiler.bundle import write_bundle
from ddimcache.runtime import peaks
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.peaks import METHOD, Peaks
from tests.compiler.test_sizes import SIZES
from tests.fakes import fake_bundle as fake
from tests.kit.device_run import sizes_of
from tests.kit.family import single_thread, stand_in
from tests.kit.shared_bundles import compiled

one_thread = pytest.fixture(scope="module", autouse=True)(single_thread)


def test_quality_draws_and_compares_at_the_size(run, tmp_path):
    made = fake.build_fake_bundle(tmp_path / "int8", tmp_path, more=((12, 6),))
    bundle = open_bundle(made)
    files = {name: bundle.path(name) for name in bundle.manifest.files}
    write_bundle(tmp_path / "bundle", replace(bundle.manifest, weights="fp32"), files)
    (tmp_path / "prompts.txt").write_text("abc\nxyz\n")
    command = ["quality", tmp_path / "bundle", "-o", tmp_path / "out", "--pictures", 2, "--device", "llvm"]
    command += ["--prompts", tmp_path / "prompts.txt", "--steps", 4, "--cache-interval", 2, "--seed", 5]
    done = run(*command, "--size", "96x48", "--json")
    assert done.code == 0, done.err
    drawn = [np.asarray(Image.open(path)) for path in (tmp_path / "out").glob("pictures/*.png")]
    assert {picture.shape for picture in drawn} == {(48, 96, 3)}
    one = ["generate", "abc", "--model", tmp_path / "bundle", "--size", "96x48", "--steps", 4, "--seed", 5]
    one += ["--cache-interval", 2, "--cache-schedule", "uniform", "--device", "llvm"]
    assert run(*one, "-o", tmp_path / "one.png").code == 0
    expected = np.asarray(Image.open(tmp_path / "one.png"))
    assert any(np.array_equal(picture, expected) for picture in drawn)

    refused = run(*command, "--size", "48x96")
    assert (refused.code, "only of 64x64, 96x48" in refused.err) == (2, True)
    kept = run(*command, "--size", "96x48", "--min-psnr", 20)
    assert (kept.code, "--min-psnr: is kept for the first size of a bundle" in kept.err) == (2, True)


def test_bench_times_and_checks_the_size(run):
    model = stand_in("small")
    bundle = compiled(model, target="llvm", **sizes_of(SIZES))
    command = ["--model", bundle.folder, "--reference", model, "--device", "llvm", "--repeats", 1]
    for size in SIZES[:2]:
        done = run("bench", "unet", *command, "--size", f"{size[0]}x{size[1]}", "--json")
        assert done.code == 0, done.err
        assert 0 < done.json["error"] < 1e-4
        seen = bundle.at(size).manifest.components["unet"]
        assert done.json["activation_bytes"] == seen.activation_bytes
        assert done.json["kernels"] == len(seen.kernels)
    done = run("bench", "decoder", *command, "--size", "64x128")
    assert done.code == 0, done.err
    assert "64×128" in done.out + done.err
    for verb in ("unet", "decoder"):
        refused = run("bench", verb, *command, "--size", "64x64")
        assert (refused.code, "only of 128x64, 64x128, 192x192" in refused.err) == (2, True)


@pytest.mark.opencl
def test_profile_times_the_kernels_of_the_size(run, cache, monkeypatch):
    def measure(_: int) -> Peaks:
        from ddimcache.runtime import devices

        info = devices.list_devices()[0]
        return Peaks(METHOD, info.name, info.driver_version, {"float32": 100.0}, 10.0, "2026-11-20")

    with monkeypatch.context() as patch:
        patch.setattr(peaks, "measure", measure)
        peaks.device_peaks(0)
    sizes = ((24, 16), (16, 32))
    bundle = compiled(stand_in("smallest"), target="opencl", **sizes_of(sizes))
    for size in sizes:
        command = ["profile", bundle.folder, "--steps", 3, "--cache-interval", 2, "--json"]
        done = run(*command, "--size", f"{size[0]}x{size[1]}")
        assert done.code == 0, done.err
        assert tuple(done.json["size"]) == size
        functions = {entry["function"]: entry["calls"] for entry in done.json["functions"]}
        assert functions["full"] == 2 * functions["cached"] > 0
        assert functions["decode"] == 1
        own = {
            kernel.name for entry in bundle.at(size).manifest.components.values() for kernel in entry.kernels
        }
        timed = {kernel["name"] for kernel in done.json["kernels"]}
        assert timed - {"copies"} <= own | {"next_step", "step", "guide_and_step"}
    refused = run("profile", bundle.folder, "--size", "16x24")
    assert (refused.code, "only of 24x16, 16x32" in refused.err) == (2, True)
