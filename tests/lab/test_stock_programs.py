"""TVM's own operators in fp16 on llvmpipe, with and without textures, against numpy."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

PROGRAM = """
import sys
from tests.kit import stock_programs
target = sys.argv[1]
names = [name for name, one in stock_programs.PROGRAMS.items() if target != "textures" or one.images]
for name in names:
    stock_programs.check(name, target, "float16")
print("right", len(names))
"""

IMAGES = """
from tests.runtime.opencl import images
images.check_views("float16", shares=True)
print("right")
"""


# llvmpipe's LLVM ends the process at every write_imageh ("Cannot emit physreg copy instruction"); the same
# numbers go through float unchanged.
WITHOUT_WRITE_IMAGEH = "-Dwrite_imageh(image,place,pixel)=write_imagef(image,place,convert_float4(pixel))"


@pytest.mark.parametrize("target", ["opencl", "textures"])
def test_float16(target: str) -> None:
    options = {"DDIMCACHE_OPENCL_BUILD_OPTIONS": WITHOUT_WRITE_IMAGEH}
    done = llvmpipe.run_python(PROGRAM, [target], environment=options)
    assert done.returncode == 0, done.stdout
    word, count = done.stdout.splitlines()[-1].split()
    assert word == "right", done.stdout
    assert int(count) >= 8


def test_images_in_buffers() -> None:
    done = llvmpipe.run_python(IMAGES)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout
