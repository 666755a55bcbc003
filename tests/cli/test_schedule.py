"""``ddimcache schedule``: a schedule that is searched for, kept in the bundle, and used by generate."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ddimcache.compiler.bundle import write_bundle
from ddimcache.quality.notes import keep_notes
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.quality_notes import MeasuredSetting, QualityNotes, read_notes
from ddimcache.runtime.refresh import uniform


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\nxyz\n")
    return path


def test_a_searched_schedule_is_used(run, own_bundle, prompts, tmp_path):
    command = ["schedule", own_bundle, "--steps", 12, "--cache-interval", "4,6", "--prompts", prompts]
    command += ["--pictures", 2, "--most-tried", 40, "--guidance", 3, "--device", "llvm"]
    done = run(*command, "--json")
    assert done.code == 0, done.err
    assert [each["cache_interval"] for each in done.json["schedules"]] == [4, 6]
    for each, count in zip(done.json["schedules"], (3, 2), strict=True):
        assert len(each["full_steps"]) == count
        assert each["psnr"] >= each["psnr_uniform"]
        assert 1 < each["tried"] <= 40
    found = done.json["schedules"][0]
    notes = read_notes(open_bundle(own_bundle))  # sums and all
    assert [list(each.full_steps) for each in notes.schedules] == [
        each["full_steps"] for each in done.json["schedules"]
    ]

    options = ["--model", own_bundle, "--steps", 12, "--cache-interval", 4, "--seed", 1_000_000]
    options += ["--guidance", 3, "--json"]
    pictures = {}
    for name in ("auto", "searched", "uniform", "quadratic"):
        out = tmp_path / f"{name}.png"
        drawn = run("generate", "abc", *options, "--cache-schedule", name, "-o", out)
        assert drawn.code == 0, drawn.err
        assert (drawn.json["full_steps"], drawn.json["cached_steps"]) == (3, 9)
        assert drawn.json["cache_schedule"] == ("searched" if name == "auto" else name)
        pictures[name] = np.asarray(Image.open(out))
        assert Image.open(out).info.get("cache_schedule") == (
            None if name == "uniform" else drawn.json["cache_schedule"]
        )
    np.testing.assert_array_equal(pictures["auto"], pictures["searched"])
    assert found["full_steps"] != list(uniform(12, 3))
    assert (pictures["uniform"] != pictures["searched"]).any()

    one = tmp_path / "one.txt"
    one.write_text("abc\n")
    several = ["batch", one, "-o", tmp_path / "several", "--seeds", 1_000_000, *options[:6], *options[8:]]
    for name in ("auto", "uniform", "quadratic"):
        drawn = run(*several, "--cache-schedule", name)
        assert drawn.code == 0, drawn.err
        [facts] = drawn.json["pictures"]
        assert (tmp_path / "several" / facts["image"]).read_bytes() == (tmp_path / f"{name}.png").read_bytes()
    assert run(*several, "--cache-schedule", "none").code == 2
    # What was searched is of DDIM's steps.
    other = run("generate", "abc", *options, "--sampler", "euler", "--cache-schedule", "searched", "-o", out)
    assert other.code == 2
    assert "--cache-schedule: schedules are searched for all steps of ddim" in other.err

    again = run(*command[:4], "--cache-interval", "4", "--most-tried", 1, *command[6:])
    assert again.code == 0, again.err
    assert "uniform" in again.out
    counts = [len(each.full_steps) for each in read_notes(open_bundle(own_bundle)).schedules]
    assert counts == [2, 3]  # the one of 3 was searched for anew


@pytest.fixture
def at_cuts(compiler, monkeypatch):
    """A compiler whose cached steps cost more with the cut, and a bundle that is known to be of the model."""
    made = compiler.compile_pipeline

    def compile_pipeline(model_dir, out_dir, options, progress):
        report = made(model_dir, out_dir, options, progress)
        bundle = open_bundle(out_dir)
        files = {name: bundle.path(name) for name in bundle.manifest.files}
        macs = bundle.manifest.macs_full * (1 + options.cut) // 10
        write_bundle(out_dir, replace(bundle.manifest, macs_cached=macs), files)
        return report

    compiler.compile_pipeline = compile_pipeline
    monkeypatch.setattr("ddimcache.commands.variants.fingerprint", lambda *_: "0" * 64)
    return compiler


def test_the_cut_is_searched_too(run, own_bundle, prompts, model, at_cuts, cache, tmp_path, monkeypatch):
    def make(cut):
        bundle = open_bundle(own_bundle)
        macs = bundle.manifest.macs_full * (1 + cut) // 10
        files = {name: bundle.path(name) for name in bundle.manifest.files}
        write_bundle(own_bundle, replace(bundle.manifest, cut=cut, macs_cached=macs), files)

    make(0)
    keep_notes(open_bundle(own_bundle), QualityNotes((), (MeasuredSetting(12, 4, "uniform", 9.0),), 7.5))
    command = ["schedule", own_bundle, "--model", model, "--steps", 12, "--cache-interval", "2,4"]
    command += ["--prompts", prompts, "--pictures", 2, "--most-tried", 6, "--guidance", 3, "--device", "llvm"]
    # Another cut of the stand-in draws the same pictures, so the errors decide as they are told to here.
    monkeypatch.setattr("ddimcache.quality.cuts.best_cut", lambda found: max(found))
    done = run(*command, "--cuts", "1", "--json")  # and its own, 0
    assert done.code == 0, done.err
    assert done.json["cut"] == 1
    # n = 2: 6 full and 6 cached steps are 6.6 full ones; of those 12 × 0.2 go to what every step has.
    assert [
        (row["cut"], row["cache_interval"], len(row["full_steps"])) for row in done.json["schedules"]
    ] == [
        (0, 2, 6),
        (0, 4, 3),
        (1, 2, 5),
        (1, 4, 1),
    ]
    placed = open_bundle(own_bundle)  # sums and all
    assert placed.manifest.cut == 1
    notes = read_notes(placed)
    assert [each.key for each in notes.schedules] == [(12, 6), (12, 3)]
    assert (notes.least_psnr, notes.measured) == (
        7.5,
        (),
    )  # the gate goes on, what was of another cut does not

    drawn = run(
        *("generate", "abc", "--model", own_bundle, "--steps", 12, "--cache-interval", 2, "--seed", 1),
        *("-o", tmp_path / "out.png", "--json"),
    )
    assert (drawn.json["cut"], drawn.json["cache_schedule"]) == (1, "searched")
    assert drawn.json["full_steps"] == 5

    monkeypatch.setattr("ddimcache.quality.cuts.best_cut", lambda found: min(found))
    again = run(*command, "--cuts", "1")  # its own cut wins: the bundle stays what it is
    assert again.code == 0, again.err
    assert f"kept in {own_bundle}" in again.err
    assert [options.cut for *_, options in at_cuts.calls] == [1, 0]

    refused = run(*command[:4], "--steps", 12, "--cache-interval", 12, *command[8:], "--cuts", 1)
    assert refused.code == 2
    assert "cut 1: one full step and 11 cached ones cost more" in refused.err
    assert "--cuts: no cut fits the budget; add cut 0" in refused.err


def test_a_folder_is_told_which_cut(run, model, prompts, at_cuts, cache, monkeypatch):
    monkeypatch.setattr("ddimcache.quality.cuts.best_cut", lambda found: max(found))
    command = ["schedule", model, "--steps", 6, "--cache-interval", 2, "--prompts", prompts, "--cuts", "0,2"]
    done = run(*command, "--pictures", 1, "--most-tried", 3, "--device", "llvm")
    assert done.code == 0, done.err
    assert "the best is cut 2: `generate --cut 2` uses these" in done.err


def test_a_search_that_is_interrupted_leaves_the_bundle(run, own_bundle, prompts, monkeypatch):
    from ddimcache.quality.search import Calibration

    def interrupted(*_):
        raise KeyboardInterrupt

    before = {path: path.read_bytes() for path in own_bundle.rglob("*") if path.is_file()}
    monkeypatch.setattr(Calibration, "error", interrupted)
    done = run("schedule", own_bundle, "--steps", 4, "--prompts", prompts, "--cache-interval", 2)
    assert done.code == 130
    assert {path: path.read_bytes() for path in own_bundle.rglob("*") if path.is_file()} == before
    assert [path.name for path in own_bundle.parent.iterdir()].count(own_bundle.name) == 1
    assert not [path for path in own_bundle.parent.iterdir() if path.suffix == ".part"]


def test_notes_that_somebody_broke_are_told(run, own_bundle, prompts):
    from ddimcache.compiler.bundle import with_file

    with_file(open_bundle(own_bundle), "quality.json", b'{"schedules": "none"}')
    for verb in (["schedule", own_bundle, "--prompts", prompts], ["generate", "abc", "--model", own_bundle]):
        done = run(*verb, "--steps", 4, "--cache-interval", 2)
        assert done.code == 1
        assert "quality.json: schedules: expected a list, found a text; search again" in done.err


def test_a_schedule_of_one_picture_and_all_budgets(run, own_bundle, prompts):
    """The least there can be: one picture, two steps, one of them full."""
    done = run(
        *("schedule", own_bundle, "--steps", 2, "--cache-interval", "2", "--prompts", prompts),
        *("--pictures", 1, "--most-tried", 1, "--json"),
    )
    assert done.code == 0, done.err
    assert done.json["schedules"][0]["full_steps"] == [0]


def test_the_gate_turns_the_cache_off(run, own_bundle, tmp_path):
    from ddimcache.compiler.bundle import with_file

    notes = {
        "schedules": [],
        "measured": [{"steps": 10, "cache_interval": 5, "schedule": "uniform", "psnr": 18.0}],
        "least_psnr": 20.0,
    }
    with_file(open_bundle(own_bundle), "quality.json", json.dumps(notes).encode())
    options = ["--model", own_bundle, "--steps", 10, "--seed", 1, "-o", tmp_path / "out.png", "--json"]
    done = run("generate", "abc", *options)
    assert (done.json["full_steps"], done.json["cache_interval"]) == (10, 1)
    assert "measured below 20 dB to those without a cache: the cache is off" in done.err
    kept = run("generate", "abc", *options, "--cache-schedule", "uniform")
    assert kept.json["full_steps"] == 2
    assert "measured below 20 dB" in kept.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cache-interval", "1"], "--cache-interval: '1' is no whole number from 2 to 50"),
        (["--steps", 2000], "--steps: 2000 is outside"),
        (["--pictures", 0], "--pictures: 0 is outside 1 … 1000"),
        (["--most-tried", 0], "--most-tried: 0 is outside 1 … 100000"),
        (["--cuts", "0,99"], "--cuts: '99' is no whole number from 0 to"),
        (["--cuts", ""], "--cuts: '' is no whole number from 0 to"),
    ],
)
def test_wrong_usage(run, own_bundle, options, message):
    done = run("schedule", own_bundle, *options)
    assert done.code == 2
    assert message in done.err
