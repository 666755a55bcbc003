"""``ddimcache quality``: figures of every setting, a page, and a run that goes on where it was killed."""

import base64
import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddimcache.compiler.bundle import write_bundle
from ddimcache.runtime.bundle import open_bundle
from ddimcache.runtime.quality_notes import read_notes
from ddimcache.runtime.refresh import quadratic
from tests.kit.device_run import psnr
from tests.kit.family import single_thread, stand_in


@pytest.fixture(scope="session")
def uncompressed(fake_bundle, tmp_path_factory):
    """The small bundle as one with float32 weights, so that nothing has to be compiled beside it."""
    bundle = open_bundle(fake_bundle)
    folder = tmp_path_factory.mktemp("uncompressed") / "bundle"
    files = {name: bundle.path(name) for name in bundle.manifest.files}
    write_bundle(folder, replace(bundle.manifest, weights="fp32"), files)
    return folder


@pytest.fixture
def uncompressed_one(uncompressed, tmp_path):
    """A copy to keep notes in."""
    return Path(shutil.copytree(uncompressed, tmp_path / "bundle"))


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("abc\nxyz <b>\n")
    return path


def pixels(folder, title, page, count):
    """The pictures of a setting as the page shows them, uint8 (count, H, W, 3)."""
    heading, body = page.split("<h2>")[1].split("</thead>")
    column = re.findall("<th>([^<]+)</th>", heading).index(title)
    rows = body.split("<tr>")[1:]
    sources = [re.findall(r'src="data:image/png;base64,([^"]+)"', row)[column] for row in rows]
    assert len(sources) == count
    contents = {base64.b64decode(source) for source in sources}
    found = [path for path in folder.glob("pictures/*.png") if path.read_bytes() in contents]
    by_content = {path.read_bytes(): np.asarray(Image.open(path)) for path in found}
    return np.stack([by_content[base64.b64decode(source)] for source in sources])


def test_a_grid_of_settings(run, uncompressed_one, prompts, tmp_path):
    uncompressed = uncompressed_one
    out = tmp_path / "out"
    command = ["quality", uncompressed, "-o", out, "--pictures", 3, "--prompts", prompts, "--workers", 2]
    command += ["--grid", "--grid-steps", "4,9", "--grid-intervals", "1,3", "--seed", 5, "--device", "llvm"]
    command += ["--schedules", "uniform,quadratic", "--min-psnr", 60]
    done = run(*command, "--json")
    assert done.code == 0, done.err
    rows = done.json["settings"]
    assert [(row["steps"], row["cache_interval"], row["schedule"]) for row in rows] == [
        (4, 1, "uniform"),
        (9, 1, "uniform"),
        (4, 3, "uniform"),
        (4, 3, "quadratic"),
        (9, 3, "uniform"),
        (9, 3, "quadratic"),
    ]
    assert [row["full_steps"] for row in rows[-2:]] == [[0, 3, 6], list(quadratic(9, 3))]
    assert (done.json["judge"], rows[0]["accuracy"]) == (None, None)  # not the embedded model's captions
    page = (out / "quality.html").read_text()
    assert "xyz &lt;b&gt;, seed 6" in page
    assert page.count("http") == page.count("http-equiv") == 1
    full, cached = (pixels(out, title, page, 3) for title in ("fp32, 9 steps, n = 1", "fp32, 9 steps, n = 3"))
    assert rows[4]["psnr_to_uncached"] == pytest.approx(psnr(cached, full))
    assert rows[4]["psnr_to_uncompressed"] == rows[4]["psnr_to_uncached"]
    assert (rows[1]["psnr_to_uncached"], rows[1]["ssim_to_uncached"]) == (None, pytest.approx(1))
    assert rows[4]["efficiency"] == pytest.approx(rows[4]["speedup"] / 3)
    assert rows[4]["speedup"] == pytest.approx(rows[1]["seconds"] / rows[4]["seconds"])

    one = tmp_path / "one.png"
    options = ["--model", uncompressed, "--steps", 9, "--cache-interval", 3, "--seed", 5]
    options += ["--cache-schedule", "uniform"]
    assert run("generate", "abc", *options, "-o", one).code == 0
    np.testing.assert_array_equal(cached[0], np.asarray(Image.open(one)))

    notes = read_notes(open_bundle(uncompressed))
    assert [each.psnr for each in notes.measured] == [row["psnr_to_uncached"] for row in rows[2:]]
    assert notes.is_below(9, 3, "uniform") == (rows[4]["psnr_to_uncached"] < 60)

    log = out / "results.jsonl"
    lines = log.read_text().splitlines()
    assert len(lines) == 6 * 3
    log.write_text("\n".join(lines[:7]) + '\n{"job": "torn')  # as a kill leaves it
    (out / "pictures" / json.loads(lines[0])["result"]["image"]).write_bytes(b"damaged")
    again = run(*command)
    assert again.code == 0, again.err
    assert len(log.read_text().splitlines()) == 7 + 12
    assert "fp32, 9 steps, n = 3, quadratic" in again.out
    assert "∞" in again.out
    assert (out / "quality.html").read_text().split("<h2>")[1] == page.split("<h2>")[1]


def test_real_models_that_the_user_names(run, uncompressed, prompts, tmp_path, monkeypatch):
    import torch

    from tests.kit.real_models import inception_state, write_clip

    monkeypatch.setattr("ddimcache.quality.inception.FEATURES", 8)  # of 2048 eigenvalues take seconds
    monkeypatch.setattr(
        "ddimcache.quality.inception.InceptionFeatures.of",
        lambda _, pictures: np.stack([np.resize(each, 8).astype(float) for each in pictures]),
    )
    torch.save(inception_state(1000), tmp_path / "inception.pth")
    (tmp_path / "real").mkdir()
    for number in range(3):
        Image.new("RGB", (9, 9), (90 * number, 5, 7)).save(tmp_path / "real" / f"{number}.png")
    out = tmp_path / "out"
    command = ["quality", uncompressed, "-o", out, "--pictures", 2, "--prompts", prompts, "--device", "llvm"]
    command += ["--steps", 2, "--cache-interval", 2, "--clip", write_clip(tmp_path / "clip")]
    command += ["--inception", tmp_path / "inception.pth"]
    done = run(*command, "--real", tmp_path / "real", "--json")
    assert done.code == 0, done.err
    assert done.json["clip"] == str(tmp_path / "clip")
    assert done.json["inception"]["is_fid"] is False
    for row in done.json["settings"]:
        assert 0 <= row["clip_score"] <= 100
        assert row["inception_fid"] > 0
    page = (out / "quality.html").read_text()
    assert "<th>CLIP</th><th>FID</th>" in page.replace("\n", "")
    assert "not those of 1008 classes" in page

    again = run(*command, "--real", out / "real-statistics.npz")
    assert again.code == 0, again.err
    assert f"{done.json['settings'][0]['inception_fid']:.2f}" in again.out
    assert "CLIP" in again.out

    refused = run(*command)
    assert (refused.code, "--inception: a distance is taken to real pictures" in refused.err) == (2, True)


def test_the_uncompressed_model_is_compiled(
    run, fake_bundle, model, prompts, tmp_path, compiler, cache, monkeypatch
):
    monkeypatch.setattr("ddimcache.commands.variants.fingerprint", lambda *_: "0" * 64)
    out, lora = tmp_path / "out", tmp_path / "ink.safetensors"
    lora.write_bytes(b"ink")
    done = run(
        *("quality", fake_bundle, "--model", model, "-o", out, "--pictures", 2, "--prompts", prompts),
        *("--steps", 3, "--cache-interval", 3, "--weights", "int8,fp16", "--lora", lora, "--json"),
    )
    assert done.code == 0, done.err
    assert [(options.weights, options.target, options.loras) for _, _, options in compiler.calls] == [
        ("fp32", "llvm", (str(lora),)),
        ("fp16", "llvm", (str(lora),)),
    ]
    assert [(row["weights"], row["cache_interval"]) for row in done.json["settings"]] == [
        ("fp32", 1),
        ("int8", 1),
        ("int8", 3),
        ("fp16", 1),
        ("fp16", 3),
    ]
    # The stand-in compiler changes no weight.
    assert done.json["settings"][1]["ssim_to_uncompressed"] == pytest.approx(1)


def test_a_folder_of_strangers(run, uncompressed, tmp_path):
    """Prompts of every script, and a folder that holds what is not ours."""
    prompts, out = tmp_path / "prompts.txt", tmp_path / "out"
    text = "\ufeffein Fuchs, übermütig\n\n  \n狐 🦊 👩‍👩‍👧\n" + "sehr " * 300 + "lang\n\u202eright to left\n"
    prompts.write_text(text, "utf-8")
    command = ["quality", uncompressed, "-o", out, "--prompts", prompts, "--pictures", 5, "--device", "llvm"]
    command += ["--steps", 2, "--cache-interval", 2]
    (out / "pictures").mkdir(parents=True)
    (out / "pictures" / "holiday.png").write_bytes(b"mine")
    done = run(*command)
    assert done.code == 0, done.err
    page = (out / "quality.html").read_text("utf-8")
    assert "<th>ein Fuchs, übermütig, seed 0</th>" in page  # no byte order mark
    assert "狐 🦊" in page
    assert (out / "pictures" / "holiday.png").read_bytes() == b"mine"

    log = out / "results.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line, seconds in zip(lines, ("soon", None, -1), strict=False):
        line["result"]["seconds"] = seconds
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(*command).code == 0
    assert len(log.read_text().splitlines()) == len(lines) + 3  # those are drawn again

    log.write_text("no result\n")
    refused = run(*command)
    assert (refused.code, "results.jsonl: line 1 is no result" in refused.err) == (2, True)
    (tmp_path / "file").write_text("a file")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        refused = run(*command[:2], "-o", folder, *command[4:])
        assert (refused.code, "--output: " in refused.err, "below a file" in refused.err) == (2, True, True)
    prompts.write_text("\n  \n")
    refused = run(*command)
    assert (refused.code, "prompts.txt holds no prompt; write one a line" in refused.err) == (2, True)


def test_the_errors_of_blocks(run):
    with contextmanager(single_thread)():
        done = run("quality", stand_in("tiny-sd15"), "--quant-report", "fp16", "--json")
    assert done.code == 0, done.err
    blocks = done.json["blocks"]
    assert {each["component"] for each in blocks} == {"text_encoder", "unet", "vae_decoder"}
    assert blocks[0]["output_error"] == max(each["output_error"] for each in blocks) > 0


def test_the_model_must_be_known(run, fake_bundle, prompts, tmp_path):
    done = run("quality", fake_bundle, "-o", tmp_path / "out", "--pictures", 2, "--prompts", prompts)
    assert done.code == 2
    assert "--model: fp32 weights at cut 0 have to be compiled from the model; name the folder" in done.err


def test_another_model_is_refused(run, fake_bundle, model, tmp_path, monkeypatch):
    monkeypatch.setattr("ddimcache.commands.variants.fingerprint", lambda *_: "1" * 64)
    done = run("quality", fake_bundle, "--model", model, "-o", tmp_path / "out")
    assert done.code == 2
    assert f"--model: {model} is not the model that {fake_bundle} was compiled from" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pictures", 1], "--pictures: 1 is outside 2 … 10000"),
        (["--workers", 0], "--workers: 0 is outside 1 … 64"),
        (["--seed", -1], "--seed: -1 leaves no seeds for 256 pictures"),
        (["--seed", 2**63 - 9], f"--seed: {2**63 - 9} leaves no seeds for 256 pictures"),
        (["--shown", -1], "--shown: -1 is negative"),
        (["--min-psnr", "nan"], "--min-psnr: nan is outside 0 … 100 dB"),
        (["--guidance", "inf"], "--guidance: inf is no finite number from 0 up"),
        (["--steps", 0], "--steps: 0 is outside"),
        (["--cache-interval", 0], "--cache-interval: 0 is below 1"),
        (["--grid", "--grid-steps", "10,many"], "--grid-steps: 'many' is no whole number from 1 to 1000"),
        (["--grid", "--grid-intervals", "0"], "--grid-intervals: '0' is no whole number from 1 to 1000"),
        (["--quant-report", "int3"], "--quant-report: 'int3' is none of: int8, int8-g32, "),
        (["--weights", "int4"], "--weights: 'int4' is none of: int8, int8-g32, "),
        (["--cuts", "99"], "--cuts: '99' is no whole number from 0 to"),
        (["--schedules", "random"], "--schedules: 'random' is none of: uniform, quadratic"),
    ],
)
def test_wrong_usage(run, uncompressed, tmp_path, options, message):
    done = run("quality", uncompressed, "-o", tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()
