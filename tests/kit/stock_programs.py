"""Programs of TVM's own operators, compiled by TVM's own pipelines, and the same in plain numpy.

No PyTorch here: the Adreno lab has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from tvm import relax

from ddimcache.compiler import texture_pipeline

Array = NDArray[Any]

TARGETS = {
    "opencl": {"kind": "opencl"},
    "adreno": {"kind": "opencl", "device": "adreno"},
    "textures": {"kind": "opencl", "device": "adreno", "keys": ["adreno", "opencl", "gpu", "texture"]},
}
TOLERANCE = {"float32": 1e-5, "float16": 1e-2}
"""Of the largest number of the result; the sums are at most a hundred long."""


@dataclass(frozen=True)
class Program:
    """``expression`` builds Relax from variables, ``reference`` computes in float64."""

    expression: Callable[..., Any]
    reference: Callable[..., Array]
    shapes: tuple[tuple[int, ...], ...]
    images: bool = False
    """Whether TVM puts some of its tensors into images for the target ``textures``."""


def _windows(x: Array, size: int, stride: int, padding: int, fill: float) -> Array:
    edges = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    padded = np.pad(x, edges, constant_values=fill)
    return sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]


def _conv(x: Array, w: Array, stride: int = 1, padding: int = 1) -> Array:
    return np.einsum("nchwij,ocij->nohw", _windows(x, w.shape[2], stride, padding, 0.0), w)


def _max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    return _windows(x, size, stride, padding, -np.inf).max((-1, -2))


def _softmax(x: Array) -> Array:
    exponentials = np.exp(x - x.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _twice(x: Array) -> Array:
    return x.repeat(2, axis=2).repeat(2, axis=3)


def _linear(x: Array, axis: int) -> Array:
    """Twice as long by linear interpolation between the middles of pixels."""
    length = x.shape[axis]
    places = np.clip((np.arange(2 * length) + 0.5) / 2 - 0.5, 0, length - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, length - 1)
    share = (places - low).reshape([-1 if side == axis else 1 for side in range(x.ndim)])
    return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def _group_norm(x: Array, scale: Array, shift: Array) -> Array:
    grouped = x.reshape(x.shape[0], 4, -1)
    normal = (grouped - grouped.mean(-1, keepdims=True)) / np.sqrt(grouped.var(-1, keepdims=True) + 1e-5)
    return normal.reshape(x.shape) * scale[:, None, None] + shift[:, None, None]


def _conv2d(x: Any, w: Any, **more: Any) -> Any:
    """TVM's convolution with sums in float32: for textures it knows no other, whatever is asked for."""
    wide = relax.op.nn.conv2d(x, w, out_dtype="float32", **more)
    return wide if w.ty.dtype == "float32" else relax.op.astype(wide, "float16")


def _nearest(x: Any) -> Any:
    return relax.op.image.resize2d(
        x,
        (14, 18),
        layout="NCHW",
        method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    )


op, nn = relax.op, relax.op.nn
IMAGE, ODD, WEIGHT = (1, 8, 16, 16), (1, 8, 7, 9), (16, 8, 3, 3)

PROGRAMS = {
    "conv": Program(lambda x, w: _conv2d(x, w, padding=1), _conv, (IMAGE, WEIGHT), True),
    "conv bias relu": Program(
        lambda x, w, b: nn.relu(op.add(_conv2d(x, w, padding=1), b)),
        lambda x, w, b: np.maximum(_conv(x, w) + b, 0),
        ((1, 8, 14, 10), (12, 8, 3, 3), (1, 12, 1, 1)),
        True,
    ),
    "conv with stride": Program(
        lambda x, w: _conv2d(x, w, strides=2, padding=1),
        lambda x, w: _conv(x, w, 2),
        ((1, 4, 15, 17), (8, 4, 3, 3)),
        True,
    ),
    "conv of odd channels": Program(nn.conv2d, lambda x, w: _conv(x, w, 1, 0), ((1, 3, 9, 7), (5, 3, 3, 3))),
    "conv of conv": Program(
        lambda x, w, v: _conv2d(nn.relu(_conv2d(x, w, padding=1)), v),
        lambda x, w, v: _conv(np.maximum(_conv(x, w), 0), v, 1, 0),
        ((1, 8, 12, 12), WEIGHT, (8, 16, 1, 1)),
        True,
    ),
    "max pool of conv": Program(
        lambda x, w: nn.max_pool2d(_conv2d(x, w, padding=1), (2, 2), (2, 2)),
        lambda x, w: _max_pool(_conv(x, w), 2, 2),
        (IMAGE, WEIGHT),
        True,
    ),
    "max pool": Program(
        lambda x: nn.max_pool2d(x, (3, 3), (2, 2), padding=(1, 1)),
        lambda x: _max_pool(x, 3, 2, 1),
        ((1, 8, 15, 15),),
    ),
    "average pool": Program(
        lambda x: nn.avg_pool2d(x, (2, 2), (2, 2)),
        lambda x: _windows(x, 2, 2, 0, 0.0).mean((-1, -2)),
        (IMAGE,),
    ),
    "adaptive pool of conv": Program(
        lambda x, w: nn.adaptive_avg_pool2d(_conv2d(x, w, padding=1), (1, 1)),
        lambda x, w: _conv(x, w).mean((2, 3), keepdims=True),
        (IMAGE, WEIGHT),
        True,
    ),
    "sum": Program(lambda x: op.sum(x, axis=[1, 3]), lambda x: x.sum((1, 3)), ((2, 8, 6, 10),)),
    "mean of conv": Program(
        lambda x, w: op.mean(_conv2d(x, w, padding=1), axis=[2, 3]),
        lambda x, w: _conv(x, w).mean((2, 3)),
        ((1, 8, 8, 8), WEIGHT),
        True,
    ),
    "softmax": Program(lambda x: nn.softmax(x, axis=-1), _softmax, ((3, 37),)),
    "concat": Program(
        lambda x, y: op.concat([x, y], axis=1), lambda x, y: np.concatenate([x, y], 1), (ODD, (1, 4, 7, 9))
    ),
    "conv of concat": Program(
        lambda x, y, w: _conv2d(op.concat([x, y], axis=1), w, padding=1),
        lambda x, y, w: _conv(np.concatenate([x, y], 1), w),
        (ODD, (1, 4, 7, 9), (8, 12, 3, 3)),
        True,
    ),
    "resize to nearest": Program(_nearest, _twice, (ODD,)),
    "resize linearly": Program(
        lambda x: op.image.resize2d(
            x, (14, 18), layout="NCHW", method="linear", coordinate_transformation_mode="half_pixel"
        ),
        lambda x: _linear(_linear(x, 2), 3),
        (ODD,),
    ),
    "conv of resize": Program(
        lambda x, w: _conv2d(_nearest(x), w, padding=1),
        lambda x, w: _conv(_twice(x), w),
        (ODD, (8, 8, 3, 3)),
        True,
    ),
    "group norm": Program(
        lambda x, g, b: nn.group_norm(x, g, b, num_groups=4, channel_axis=1, axes=[2, 3]),
        _group_norm,
        ((1, 8, 6, 6), (8,), (8,)),
    ),
    "matmul": Program(op.matmul, np.matmul, ((24, 40), (40, 56))),
}


def check(name: str, target: str, dtype: str) -> None:
    """Compile a program for one of :data:`TARGETS`, run it on ``opencl:0`` and compare with numpy."""
    program = PROGRAMS[name]
    variables = [
        relax.Var(f"x{index}", relax.TensorType(shape, dtype)) for index, shape in enumerate(program.shapes)
    ]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            output = builder.emit_output(program.expression(*variables))
        builder.emit_func_output(output)
    more = {}
    if target == "textures":
        texture_pipeline.register()
        more["tir_pipeline"] = texture_pipeline.TEXTURE_PIPELINE
    built = tvm.compile(builder.get(), target=tvm.target.Target(TARGETS[target], host="llvm"), **more)
    sources = [device.inspect_source() for host in built.mod.imports for device in host.imports]
    assert any("image2d_array_t" in source for source in sources) == (program.images and target == "textures")

    rng = np.random.default_rng(len(name))
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in program.shapes]
    device = tvm.runtime.device("opencl", 0)
    # Once for every memory scope that TVM's passes may have made.
    machine = relax.VirtualMachine(built, [device] * 8)
    result = machine["main"](*[tvm.runtime.tensor(array, device) for array in arrays]).numpy()
    expected = program.reference(*[array.astype("float64") for array in arrays])
    assert (result.shape, str(result.dtype)) == (expected.shape, dtype)
    error = np.abs(result - expected).max() / np.abs(expected).max()
    assert error < TOLERANCE[dtype], f"{name} for {target} in {dtype}: {error:.1e}"
