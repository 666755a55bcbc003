"""``--size`` where a bundle makes pictures of several: what is read, drawn, shown and refused."""

import json

import pytest
from PIL import Image

from ddimcache.commands.terminal import parse_sizes
from ddimcache.compiler.bundle import with_file
from ddimcache.errors import UsageError
from ddimcache.runtime.bundle import open_bundle
from tests.fakes import fake_bundle as fake

MORE = ((12, 6), (6, 12))


@pytest.fixture(scope="module")
def sizes_bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    return fake.build_fake_bundle(folder / "bundle", folder, more=MORE)


@pytest.fixture
def draw(run, sizes_bundle, tmp_path):
    def draw(*options):
        command = ["generate", "abc", "--model", sizes_bundle, "--steps", 2, "--seed", 4]
        return run(*command, "-o", tmp_path / "out.png", "--json", *options)

    return draw


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (None, ()),
        ("512x512", ((512, 512),)),
        ("512x512, 640×384,384X640", ((512, 512), (640, 384), (384, 640))),
        ("384..512x64", ((384, 64), (448, 64), (512, 64))),
        ("64x64,64x64..192:128", ((64, 64), (64, 192))),
        ("256..320x256..384:64", tuple((w, h) for w in (256, 320) for h in (256, 320, 384))),
        ("8..20x8:8", ((8, 8), (16, 8))),
    ],
)
def test_lists_and_ranges(text, sizes):
    assert parse_sizes(text) == sizes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no size; write WIDTHxHEIGHT, such as 512x512, several with commas"),
        ("512", "'512' is no size"),
        ("512x512,", "'' is no size"),
        ("512x0", "'512x0' is no size"),
        ("512x512:64", "'512x512:64' is no size"),
        ("384..640x384:0", "'384..640x384:0' is no size"),
        ("640..384x384", "'640..384x384' is empty"),
        ("8..99999x8..99999:1", "makes more than 1000 sizes"),
        ("-64x64", "'-64x64' is no size"),
    ],
)
def test_what_is_no_size(text, message):
    with pytest.raises(UsageError, match="--size") as caught:
        parse_sizes(text)
    assert message in str(caught.value)


def test_compile_is_told_all_sizes(run, model, compiler, tmp_path):
    command = ["compile", model, "-o", tmp_path / "out", "--target", "llvm"]
    assert run(*command, "--size", "64x64,128x64..128").code == 0
    options = compiler.calls[-1][2]
    assert (options.width, options.height) == (64, 64)
    assert options.more_sizes == ((128, 64), (128, 128))
    done = run(*command, "--size", "64..640x64..640")
    assert done.code == 2
    assert "--size: 100 sizes, at most 32 fit into a bundle" in done.err


@pytest.mark.parametrize("size", [None, (64, 64), (96, 48), (48, 96)])
def test_generate_draws_the_size(draw, tmp_path, size):
    done = draw(*([] if size is None else ["--size", f"{size[0]}x{size[1]}"]))
    assert done.code == 0, done.err
    assert tuple(done.json["size"]) == (size or (64, 64))
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (size or (64, 64))


def test_generate_names_the_sizes_that_are_there(draw, tmp_path):
    done = draw("--size", "64x96")
    assert done.code == 2
    assert "--size: the bundle makes no pictures of 64x96, only of 64x64, 96x48, 48x96" in done.err
    assert not (tmp_path / "out.png").exists()


def test_batch_draws_the_size_beside_the_others(run, sizes_bundle, tmp_path, draw):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("abc\n")
    command = ["batch", prompts, "-o", tmp_path / "out", "--model", sizes_bundle, "--steps", 2]
    command += ["--seeds", 4, "--device", "llvm", "--json"]
    names = set()
    for size in ([], ["--size", "96x48"], ["--size", "48x96"]):
        done = run(*command, *size)
        assert done.code == 0, done.err
        [picture] = done.json["pictures"]
        assert done.json["drawn_before"] == 0
        names.add(picture["image"])
        assert draw(*size).code == 0
        assert (tmp_path / "out" / picture["image"]).read_bytes() == (tmp_path / "out.png").read_bytes()
    assert len(names) == 3
    # The first size by its name is the picture without one.
    assert run(*command, "--size", "64x64").json["drawn_before"] == 1
    refused = run(*command, "--size", "8x8")
    assert refused.code == 2
    assert "only of 64x64, 96x48, 48x96" in refused.err


def test_inspect_shows_all_sizes_or_one(run, sizes_bundle):
    facts = run("inspect", sizes_bundle, "--json").json
    assert [entry["size"] for entry in facts["sizes"]] == [[64, 64], [96, 48], [48, 96]]
    assert facts["sizes"][1]["components"] == {"unet": 1152, "vae_decoder": 1152}
    text = run("inspect", sizes_bundle)
    assert "64×64, 96×48, 48×96, batch 1" in text.out
    one = run("inspect", sizes_bundle, "--size", "96x48", "--json").json
    assert (one["size"], one["macs_full"]) == ([96, 48], 1125)
    assert {name for kernel in one["kernels"] for name in kernel["calls"]} == {
        *("encode", "embed_time", "project_context", "full", "cached", "decode"),
    }
    layers = run("inspect", sizes_bundle, "--size", "96x48", "--layers", "--json").json["layers"]
    assert {entry["function"] for entry in layers} >= {"full", "cached", "decode"}
    assert not any("96x48" in entry["function"] for entry in layers)
    refused = run("inspect", sizes_bundle, "--size", "8x8")
    assert refused.code == 2
    assert "only of 64x64" in refused.err


def test_a_bundle_at_a_size_is_written_again_as_a_whole(sizes_bundle, tmp_path):
    folder = fake.build_fake_bundle(tmp_path / "bundle", tmp_path, more=MORE[:1])
    seen = open_bundle(folder).at((96, 48))
    assert with_file(seen, "quality.json", json.dumps({}).encode()).manifest.more_sizes
    assert seen.at(None) is seen
    assert seen.at((64, 64)).manifest.image_size == (64, 64)


def test_inspect_shows_a_unet_that_fills_in(run, tmp_path):
    """What such a UNet computes once a masked picture is there once a size."""
    folder = fake.write_unbuilt_bundle(tmp_path / "bundle", images=True, inpaints=True, more=MORE[:1])
    facts = run("inspect", folder, "--json").json
    once = {"embed_time", "project_context", "project_surroundings", "project_surroundings_96x48"}
    assert set(facts["macs_once"]) == once
    text = run("inspect", folder)
    assert text.code == 0, text.err
    words = [line.split() for line in text.out.splitlines()]
    for name in sorted(once - {"embed_time", "project_context"}):
        assert f"once for a masked picture {name}, 5e-08 GMAC".split() in words
    one = run("inspect", folder, "--size", "96x48", "--json").json
    assert set(one["macs_once"]) == once - {"project_surroundings_96x48"}
    assert run("inspect", folder, "--memory").code == run("inspect", folder, "--layers").code == 0
