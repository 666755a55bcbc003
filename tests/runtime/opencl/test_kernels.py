"""Compiled programs give the right numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend import nn

from ddimcache.runtime import devices
from tests.runtime.opencl import programs

pytestmark = pytest.mark.opencl


def run_relax(module: nn.Module, *inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compile with the stock pipeline, run with random parameters; returns the result and the parameters."""
    named_inputs = dict(zip("xy", inputs, strict=False))
    spec = {"forward": {name: nn.spec.Tensor(x.shape, str(x.dtype)) for name, x in named_inputs.items()}}
    built, named = module.export_tvm(spec)
    executable = tvm.compile(built, target=tvm.target.Target(programs.TARGET, host="llvm"))
    device = tvm.runtime.device("opencl", 0)
    rng = np.random.default_rng(7)
    parameters = [
        rng.standard_normal([int(side) for side in parameter.shape]).astype("float32")
        for _, parameter in named
    ]
    arguments = [tvm.runtime.tensor(array, device) for array in (*inputs, *parameters)]
    return relax.VirtualMachine(executable, device)["forward"](*arguments).numpy(), parameters


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


class Elementwise(nn.Module):
    def forward(self, x: nn.Tensor, y: nn.Tensor) -> nn.Tensor:
        return nn.op.silu(x * y + x)


class Product(nn.Module):
    def forward(self, x: nn.Tensor, y: nn.Tensor) -> nn.Tensor:
        return nn.op.matmul(x, y)


class Softmax(nn.Module):
    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.op.softmax(x, axis=-1)


class Sum(nn.Module):
    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return nn.op.sum(x, axis=[1])


class Normalise(nn.Module):
    def __init__(self) -> None:
        self.norm = nn.LayerNorm(48)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.norm(x)


class Convolution(nn.Module):
    def __init__(self) -> None:
        self.conv = nn.Conv2D(5, 12, 3, padding=1, stride=2)

    def forward(self, x: nn.Tensor) -> nn.Tensor:
        return self.conv(x)


def test_elementwise() -> None:
    x, y = normal(3, 50, 7), normal(3, 50, 7) + 1
    result, _ = run_relax(Elementwise(), x, y)
    value = (x * y + x).astype("float64")
    np.testing.assert_allclose(result, value / (1 + np.exp(-value)), rtol=1e-5, atol=1e-6)


def test_matmul() -> None:
    x, y = normal(2, 33, 65), normal(2, 65, 40)
    result, _ = run_relax(Product(), x, y)
    np.testing.assert_allclose(result, x.astype("float64") @ y.astype("float64"), rtol=1e-4, atol=1e-4)


def test_softmax() -> None:
    x = normal(4, 130) * 5
    result, _ = run_relax(Softmax(), x)
    exponent = np.exp(x.astype("float64") - x.max(-1, keepdims=True))
    np.testing.assert_allclose(result, exponent / exponent.sum(-1, keepdims=True), rtol=1e-5, atol=1e-7)


def test_reduction() -> None:
    x = normal(5, 1000, 3)
    result, _ = run_relax(Sum(), x)
    np.testing.assert_allclose(result, x.astype("float64").sum(1), rtol=1e-5, atol=1e-4)


def test_layer_norm() -> None:
    x = normal(6, 48)
    result, (weight, bias) = run_relax(Normalise(), x)
    wide = x.astype("float64")
    scaled = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(result, scaled * weight + bias, rtol=1e-4, atol=1e-4)


def test_conv2d() -> None:
    x = normal(1, 5, 15, 18)
    result, (weight, bias) = run_relax(Convolution(), x)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))).astype("float64")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2]
    expected = np.einsum("nchwij,ocij->nohw", windows, weight.astype("float64")) + bias[:, None, None]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


def test_a_dynamic_shape_of_zero_elements_launches_nothing() -> None:
    class Add(nn.Module):
        def forward(self, x: nn.Tensor) -> nn.Tensor:
            return x + x

    built, _ = Add().export_tvm({"forward": {"x": nn.spec.Tensor(["n", 4], "float32")}})
    executable = tvm.compile(built, target=tvm.target.Target(programs.TARGET, host="llvm"))
    device = tvm.runtime.device("opencl", 0)
    machine = relax.VirtualMachine(executable, device)
    before = devices.launches()
    empty = machine["forward"](tvm.runtime.empty((0, 4), "float32", device))
    assert empty.numpy().shape == (0, 4)
    assert devices.launches() == before
    full = machine["forward"](tvm.runtime.tensor(np.ones((3, 4), "float32"), device))
    np.testing.assert_array_equal(full.numpy(), np.full((3, 4), 2, "float32"))
    assert devices.launches() == before + 1


SCALARS = """
__kernel void scalars(__global float* out, int a, long b, float c, short d, ushort half_bits) {
  out[0] = a; out[1] = b; out[2] = c; out[3] = d; out[4] = vload_half(0, (const half*)&half_bits);
}
"""


def test_scalars_of_every_width(device: tvm.runtime.Device) -> None:
    data = programs.module_bytes(
        SCALARS, "scalars", ["handle", "int32", "int64", "float32", "int16", "float16"]
    )
    function = programs.load(data).get_function("scalars")
    out = tvm.runtime.empty((5,), "float32", device)
    function(programs.handle(out), -7, 1 << 40, 0.5, -3, 1.5, 1, 1)
    np.testing.assert_array_equal(out.numpy(), np.float32([-7, 2.0**40, 0.5, -3, 1.5]))


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, 1.0, 65504.0, 65519.0, 65520.0, -1e9, 6e-8, 2.9e-8, 1e-5, 0.1, 3.14159, 2049.0, 2051.0],
)
def test_half_scalars_round_like_numpy(value: float, device: tvm.runtime.Device) -> None:
    source = "__kernel void bits(__global ushort* out, ushort value) { out[0] = value; }"
    function = programs.kernel(source, "bits", ["handle", "float16"])
    out = tvm.runtime.empty((1,), "uint16", device)
    function(programs.handle(out), value, 1, 1)
    with np.errstate(over="ignore"):
        expected = np.float32(value).astype(np.float16)
    assert out.numpy()[0] == expected.view(np.uint16)


def test_a_kernel_reads_an_image(device: tvm.runtime.Device) -> None:
    source = """
    __kernel void gather(__read_only image2d_array_t image, __global float* out) {
      const sampler_t nearest = CLK_NORMALIZED_COORDS_FALSE | CLK_ADDRESS_CLAMP | CLK_FILTER_NEAREST;
      int x = get_global_id(0), y = get_global_id(1), layer = get_global_id(2);
      int width = get_global_size(0), height = get_global_size(1);
      vstore4(read_imagef(image, nearest, (int4)(x, y, layer, 0)), (layer * height + y) * width + x, out);
    }
    """
    tags = ("blockIdx.x", "blockIdx.y", "blockIdx.z")
    function = programs.kernel(source, "gather", ["handle", "handle"], tags=tags)
    array = normal(3, 5, 6, 4)
    image = tvm.runtime.empty(array.shape, "float32", device, mem_scope="global.texture")
    image.copyfrom(array)
    out = tvm.runtime.empty(array.shape, "float32", device)
    function(programs.handle(image), programs.handle(out), 6, 5, 3)
    np.testing.assert_array_equal(out.numpy(), array)


def test_many_launches_without_a_wait_between_them(device: tvm.runtime.Device) -> None:
    """More than the queue may hold at once."""
    source = "__kernel void count(__global int* out) { out[0] += 1; }"
    function = programs.kernel(source, "count", ["handle"])
    out = tvm.runtime.tensor(np.zeros(1, "int32"), device)
    for _ in range(3000):
        function(programs.handle(out), 1, 1)
    assert out.numpy()[0] == 3000
