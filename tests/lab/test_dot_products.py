"""Sums of products of int8 by the function of OpenCL 3.0, which PoCL 3.1 does not have and llvmpipe does."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

DOTS = '''
import tvm
from tests.runtime.opencl.dot_products import check_dots
from tests.runtime.opencl.programs import handle, kernel

# Whether the function is the driver's: the macro that writes it out is there then.
KNOWN = """__kernel void known(__global int* restrict out) {
  const char four[4] = {0, 0, 0, 0};
  out[0] = ddimcache_dot16((int16)(0), (int16)(0), four).s0;
#ifdef DDIMCACHE_DOT
  out[0] = 1;
#endif
}"""

device = tvm.device("opencl", 0)
out = tvm.runtime.empty((1,), "int32", device)
kernel(KNOWN, "known", ["handle"])(handle(out), 1, 1)
assert out.numpy()[0] == 1, "the driver has no dot product of packed bytes"
check_dots(device)
print("right")
'''


def test_any_bytes() -> None:
    done = llvmpipe.run_python(DOTS)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout
