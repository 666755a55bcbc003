"""GELU of large gates in float16: its tanh form overflows where it is written as it stands, ours does not."""

from __future__ import annotations

import llvmpipe
import pytest

pytestmark = pytest.mark.lab

PROGRAM = """
import numpy as np
from ddimcache.compiler.target import profile
from ddimcache.kernels.geglu import kernel as geglu
from ddimcache.kernels.geglu.reference import geglu as plain_geglu
from ddimcache.kernels.matmul import kernel as matmul
from tests.kit.kernel_run import rounded_weights, run_kernel, te_function
from tests.runtime.opencl import programs

device = tvm.runtime.device("opencl", 0)
gates = np.linspace(-60, 60, 256, dtype="float16")

# The published form, tanh by the exponential, with CLIP as what bounds the cubic term's argument.
SOURCE = '''
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
__kernel void gelu(__global half* out, __global const half* gates) {
  half x = gates[get_global_id(0)];
  half c = CLIP;
  half e = exp((half)1.5957691h * (c + (half)0.044715h * c * c * c));
  out[get_global_id(0)] = (half)0.5h * x * ((half)1.0h + (e - (half)1.0h) / (e + (half)1.0h));
}
'''
written = programs.kernel(SOURCE.replace("CLIP", "x"), "gelu", ["handle", "handle"])
source, out = (tvm.runtime.tensor(array, device) for array in (gates, np.zeros_like(gates)))
written(programs.handle(out), programs.handle(source), 4, 64)
found = out.numpy()
wrong = ~np.isfinite(found)
print(f"as it is written: {wrong.sum()} of {len(gates)} gates give no number, from {gates[wrong].min()} on")
assert wrong.sum() > 80

# Ours, as a gated layer of the phone's profile: values of 1, and every gate a sum of products.
depth, channels = 64, 12
width = matmul.panel_width(2 * channels, profile("adreno-740").tiles.columns)
half = width // 2
for how in ("half", "chunks"):
    for group in (0, 64):
        x = np.repeat(gates[:, None] / 64, depth, 1)[None].astype("float16")
        plain = np.concatenate([np.zeros((channels, depth)), np.ones((channels, depth))]).astype("float32")
        bias = np.concatenate([np.ones(channels), np.zeros(channels)]).astype("float16")
        packed, _ = rounded_weights(geglu.interleave(plain, half), group, matmul.pack, width)
        _, weight = rounded_weights(plain, group, matmul.pack, width)
        arrays = [x, *packed, geglu.interleave(bias, half)]
        compute = lambda x, w, s, b: geglu.geglu(x, w, s, b, "float16", how)
        shape = (1, len(gates), channels // half, half)
        result = run_kernel(te_function(compute, arrays), arrays, shape, "float16", "adreno-740")
        exact = plain_geglu(*(array.astype("float64") for array in (x, weight, bias)))
        error = np.abs(result.reshape(exact.shape) - exact)
        print(f"{how}, groups of {group}: error {error.max():.2e} of gates up to 60")
        assert np.isfinite(result).all()
        # 64 equal numbers are summed in float16: half a unit in the last place an addition.
        assert (error <= 64 * 2.0**-12 * np.abs(exact) + 2e-3).all()
print("right")
"""


def test_large_gates() -> None:
    done = llvmpipe.run_python(PROGRAM)
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "right", done.stdout
