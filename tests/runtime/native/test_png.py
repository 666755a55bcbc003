"""Pictures that C++ writes are read by Pillow, pixel by pixel the same."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def program(build_program) -> Path:
    return build_program("write_png", ["png.cc"])


# below, at and above the longest stored block of 65535 bytes
@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (3, 2), (64, 64), (1, 70000), (7281, 3), (21845, 1), (21844, 1), (200, 128)]
)
def test_pillow_reads_the_same_pixels(program: Path, width: int, height: int) -> None:
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    done = subprocess.run(
        [program], input=b"%d %d " % (width, height) + pixels.tobytes(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(io.BytesIO(done.stdout)) as image:
        image.verify()
    with Image.open(io.BytesIO(done.stdout)) as image:
        assert (image.mode, image.size) == ("RGB", (width, height))
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize(("width", "height", "count"), [(0, 0, 0), (2, 2, 11), (2, 2, 13), (1 << 31, 1, 3)])
def test_other_sizes_than_the_pixels_are_refused(program: Path, width: int, height: int, count: int) -> None:
    done = subprocess.run([program], input=b"%d %d " % (width, height) + bytes(count), capture_output=True)
    assert done.returncode == 1
    assert f"does not have {count} bytes" in done.stderr.decode()
