"""``ddimcache compile --min-psnr``: a bundle that is good enough, and one that is not."""

import pytest

from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.quality_notes import read_notes


def test_a_bundle_passes_or_is_refused(run, model, compiler, cache, tmp_path):
    out = tmp_path / "out" / "bundle"
    out.parent.mkdir()
    command = ["compile", model, "-o", out, "--target", "llvm", "--gate-pictures", 2, "--gate-steps", 4]
    command += ["--cache-interval", 2, "--json"]
    done = run(*command, "--min-psnr", 1)
    assert done.code == 0, done.err
    assert {options.weights for *_, options in compiler.calls} == {"int8", "fp32"}
    assert "dB to the uncompressed model" in done.err
    assert done.json["bundle"] == str(out)
    notes = read_notes(open_bundle(out))
    assert notes.least_psnr == 1
    assert [(each.steps, each.cache_interval) for each in notes.measured] == [(4, 2)]
    assert 1 < notes.measured[0].psnr < 99
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]

    manifest = (out / "manifest.json").read_bytes()
    refused = run(*command, "--min-psnr", 99)
    assert refused.code == 1
    # The stand-in compiler rounds no weight, so the cache costs all of it.
    assert "below 99: int8 weights alone leave equal pictures, a cache interval of 2" in refused.err
    assert "take a smaller --cache-interval; no bundle was written" in refused.err
    assert (out / "manifest.json").read_bytes() == manifest
    assert [path.name for path in out.parent.iterdir()] == ["bundle"]


def test_pictures_that_nobody_judges_are_not_drawn(run, model, compiler, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("ddimcache.quality.gate.draw_sets", None)
    done = run("compile", model, "-o", tmp_path / "bundle", "--target", "llvm", "--min-accuracy", 90)
    assert done.code == 2
    assert "--min-accuracy: pictures of this model cannot be judged; ask for --min-psnr" in done.err
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--min-psnr", 101], "--min-psnr: 101 is outside 0 … 100 dB"),
        (["--min-accuracy", -1], "--min-accuracy: -1 is outside 0 … 100 percent"),
        (["--min-psnr", 20, "--gate-steps", 0], "--steps: 0 is outside"),
        (["--min-psnr", 20, "--gate-pictures", 1], "--gate-pictures: 1 is outside 2 … 10000"),
        (["--min-psnr", 20, "--batch", 2], "--batch: pictures are drawn one by one"),
    ],
)
def test_wrong_usage(run, model, compiler, cache, tmp_path, options, message):
    done = run("compile", model, "-o", tmp_path / "bundle", "--target", "llvm", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "bundle").exists()
