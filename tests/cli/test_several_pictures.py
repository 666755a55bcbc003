"""``ddimcache generate`` with a bundle that makes several pictures of a prompt at once."""

import numpy as np
import pytest
from PIL import Image

from tests.fakes import fake_bundle as fake


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.png"


@pytest.fixture
def generate(run, fake_bundle, out):
    """Run generate on the small bundle; later options replace earlier ones."""

    def run_it(*options):
        return run("generate", "a cat", "--model", fake_bundle, "--device", "llvm", "-o", out, *options)

    return run_it


def test_a_bundle_that_makes_several_pictures_writes_as_many_files(generate, out, tmp_path):
    """The first is that of a bundle that makes one, the others go on with the seed's numbers."""
    fake.build_fake_bundle(tmp_path / "three", tmp_path, "llvm", batch=3)
    one, three = ("--steps", 4, "--seed", 3), ("--steps", 4, "--seed", 3, "--model", tmp_path / "three")
    assert generate(*one).code == 0
    done = generate(*three, "--save-latents", tmp_path / "end.npy", "--json")
    assert done.code == 0, done.err
    files = [out.with_name(f"out-{number}.png") for number in (1, 2, 3)]
    assert done.json["images"] == [str(file) for file in files]
    assert done.json["image"] == str(files[0])
    pictures = [Image.open(file) for file in files]
    assert [picture.text["picture"] for picture in pictures] == ["1 of 3", "2 of 3", "3 of 3"]
    pixels = [np.asarray(picture) for picture in pictures]
    np.testing.assert_array_equal(pixels[0], np.asarray(Image.open(out)))
    assert (pixels[1] != pixels[0]).any()
    assert (pixels[2] != pixels[1]).any()
    assert np.load(tmp_path / "end.npy").shape == (3, fake.CHANNELS, 8, 8)
    assert generate(*three).out.splitlines()[:3] == list(map(str, files))


def test_a_file_that_one_of_several_pictures_cannot_have_is_refused_first(generate, out, tmp_path):
    fake.build_fake_bundle(tmp_path / "two", tmp_path, "llvm", batch=2)
    out.with_name("out-2.png").mkdir()
    done = generate("--steps", 2, "--model", tmp_path / "two")
    assert done.code == 2
    assert "--output" in done.err
    assert "out-2.png is a folder" in done.err
    assert not out.with_name("out-1.png").exists()
