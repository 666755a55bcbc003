"""Vector loads and stores of any width and kind of memory, at addresses that are no multiple of a vector."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from ddimcache.errors import DdimcacheError
from tests.runtime.opencl.programs import handle, kernel

pytestmark = pytest.mark.opencl

TYPES = {
    "char": "int8",
    "uchar": "uint8",
    "short": "int16",
    "ushort": "uint16",
    "int": "int32",
    "uint": "uint32",
    "long": "int64",
    "ulong": "uint64",
    "float": "float32",
}

# Global to private, private to local, local to private, plus a constant, to global; each off by a number.
SOURCE = """
__constant TYPE factors[17] = {9, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1};
__kernel void move(__global TYPE* restrict out, __global const TYPE* restrict x) {
  TYPE own[33];
  __local TYPE shared[33];
  vstoreWIDTH(vloadWIDTH(1, x + 1), 0, own + 1);
  vstoreWIDTH(vloadWIDTH(0, own + 1), 1, shared + 1);
  TYPEWIDTH numbers = vloadWIDTH(1, shared + 1) + vloadWIDTH(0, factors + 1);
  vstoreWIDTH(numbers, 1, out + 1);
}
"""


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("name", TYPES)
def test_vectors_at_odd_places(name: str, width: int, device: tvm.runtime.Device) -> None:
    source = SOURCE.replace("TYPE", name).replace("WIDTH", str(width))
    x = np.arange(40).astype(TYPES[name])
    inputs = tvm.runtime.tensor(x, device)
    out = tvm.runtime.tensor(np.zeros_like(x), device)
    kernel(source, "move", ["handle", "handle"])(handle(out), handle(inputs), 1, 1)
    factors = np.array([1, 2, 3] * 6, TYPES[name])
    expected = np.zeros_like(x)
    expected[1 + width : 1 + 2 * width] = x[1 + width : 1 + 2 * width] + factors[:width]
    np.testing.assert_array_equal(out.numpy(), expected)


def test_lines_of_the_build_log_are_those_of_the_source(device: tvm.runtime.Device) -> None:
    source = "__kernel void move(__global float* x) {\n  vstore4(vload4(0, x), 1, x);\n  this is wrong;\n}\n"
    run = kernel(source, "move", ["handle"])
    x = tvm.runtime.tensor(np.zeros(8, "float32"), device)
    with pytest.raises((DdimcacheError, RuntimeError), match=r":3:3: use of undeclared identifier 'this'"):
        run(handle(x), 1, 1)
