"""The shapes that the kernels of a model have, and how often each is computed, as data.

``data/sd15.json`` and ``data/sd21.json`` are what this prints for a model of that size::

    python -m ddimcache.bench.kernels.shapes sd15 MODEL

The model is imported and simplified by the compiler's own phases, up to where operators become kernels.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ddimcache.errors import BundleError
from ddimcache.manifest import Count, Size
from ddimcache.records import Limits, RecordProblem, from_json, loads, to_json

if TYPE_CHECKING:
    from tvm import relax

FUNCTIONS = ("full", "cached", "decode")
FAMILIES = (
    "matmul",
    "conv1x1",
    "conv3x3",
    "conv_strided",
    "attention",
    "group_norm",
    "layer_norm",
    "geglu",
    "resize",
)
MODELS = ("sd15", "sd21")
_FOLDER = Path(__file__).absolute().parent / "data"

Family = Annotated[str, Limits(pattern="|".join(FAMILIES), meaning="a family of kernels")]


@dataclass(frozen=True)
class KernelShape:
    """A kernel's sizes and how often a call of each function computes it.

    ``sizes`` is, with R rows (tokens or pixels) and C channels: ``matmul``, ``geglu`` R, C, output channels;
    ``conv1x1``, ``conv3x3``, ``conv_strided`` height, width, C, output channels; ``attention`` queries, keys,
    heads, head width; ``group_norm`` R, C, groups; ``layer_norm`` R, C; ``resize`` height, width, C.
    Batch is 1.
    """

    family: Family
    sizes: tuple[Size, ...]
    full: Count = 0
    cached: Count = 0
    decode: Count = 0

    @property
    def text(self) -> str:
        """The sizes as ``64x64x320x320``."""
        return "x".join(map(str, self.sizes))

    @property
    def macs(self) -> int:
        """Multiply-accumulates by the definition of the operator, 0 for what is none."""
        match self.family, self.sizes:
            case (("matmul" | "geglu"), (rows, depth, channels)):
                return rows * depth * channels
            case (("conv1x1" | "conv3x3" | "conv_strided"), (height, width, depth, channels)):
                stride = 2 if self.family == "conv_strided" else 1
                taps = 1 if self.family == "conv1x1" else 9
                return height // stride * (width // stride) * taps * depth * channels
            case "attention", (queries, keys, heads, head_width):
                return 2 * queries * keys * heads * head_width
        return 0

    @property
    def elements_moved(self) -> int:
        """Activations read once and written once, weights apart."""
        match self.family, self.sizes:
            case "matmul", (rows, depth, channels):
                return rows * (depth + channels)
            case "geglu", (rows, depth, channels):
                return rows * (depth + channels // 2)
            case (("conv1x1" | "conv3x3"), (height, width, depth, channels)):
                return height * width * (depth + channels)
            case "conv_strided", (height, width, depth, channels):
                return height * width * depth + height // 2 * (width // 2) * channels
            case "attention", (queries, keys, heads, head_width):
                return 2 * (queries + keys) * heads * head_width
            case ("group_norm", (rows, channels, _)) | ("layer_norm", (rows, channels)):
                return 2 * rows * channels
            case "resize", (height, width, channels):
                return 5 * height * width * channels
        raise AssertionError(f"{self.family} of {len(self.sizes)} sizes")


@dataclass(frozen=True)
class ModelShapes:
    """The kernels of a model's UNet and decoder."""

    model: str
    kernels: tuple[KernelShape, ...]


def read_shapes(model: str) -> ModelShapes:
    """The shapes of ``sd15`` or ``sd21``."""
    path = _FOLDER / f"{model}.json"
    try:
        return from_json(ModelShapes, loads(path.read_bytes()))
    except RecordProblem as problem:
        raise BundleError(f"cannot be read: {problem}", where=str(path)) from problem


def list_shapes(name: str, model: Path) -> ModelShapes:
    """The shapes of the diffusers folder ``model``, imported at batch 1 and the model's own size."""
    from ddimcache.compiler.frontend.pipeline_folder import load_pipeline_folder
    from ddimcache.compiler.frontend.unet import import_unet
    from ddimcache.compiler.frontend.vae_decoder import import_vae_decoder

    folder = load_pipeline_folder(model)
    height, width = folder.latent_size
    counts: Counter[tuple[str, str, tuple[int, ...]]] = Counter()
    unet = import_unet(folder.load_unet(), 1, height, width, folder.text_length, "float32")
    counts.update(_kernels(unet, "main", 0))
    del unet
    counts.update(
        _kernels(import_vae_decoder(folder.load_vae(), 1, height, width, "float32"), "decode", None)
    )
    found = {(family, sizes) for _, family, sizes in counts}
    order = sorted(found, key=lambda kernel: (FAMILIES.index(kernel[0]), kernel[1]))
    return ModelShapes(
        name,
        tuple(
            KernelShape(family, sizes, *(counts[function, family, sizes] for function in FUNCTIONS))
            for family, sizes in order
        ),
    )


def _kernels(component: Any, entry: str, cut: int | None) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    from tvm import relax

    from ddimcache.compiler import pipeline
    from ddimcache.compiler.target import profile

    device = profile("llvm")
    request = pipeline.Request(component, device, "int8", entry, cut)
    compilation = pipeline.start(request)
    with device.tvm_target():
        for name, phase in pipeline.phases(request, compilation):
            if name == "lower attention":
                break
            compilation.module = phase(compilation.module)
    for name in compilation.inputs:
        function = compilation.module[name]
        assert isinstance(function, relax.Function)
        for family, sizes in _operators(function):
            yield name, family, sizes


def _operators(function: relax.Function) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Family and sizes of every operator of ``function`` that becomes a kernel of ours."""
    from tvm import relax

    from ddimcache.compiler.passes.simplify import op_name, static_shape

    values: dict[Any, Any] = {
        binding.var: binding.value for block in function.body.blocks for binding in block.bindings
    }

    def source(expr: Any, through: tuple[str, ...]) -> Any:
        """What ``expr`` was made of, behind operators that only move it or add to it."""
        value = values.get(expr, expr)
        while op_name(value) in through or isinstance(value, relax.TupleGetItem | relax.Var):
            if isinstance(value, relax.Var) and value not in values:
                return value
            inner = (
                value.tuple_value
                if isinstance(value, relax.TupleGetItem)
                else values[value]
                if isinstance(value, relax.Var)
                else value.args[0]
            )
            value = values.get(inner, inner)
        return value

    moved = ("relax.split", "relax.strided_slice", "relax.add", "relax.reshape")
    gated = [
        source(value.args[0], moved)
        for value in values.values()
        if op_name(value).startswith("relax.nn.gelu")
    ]
    for value in values.values():
        name = op_name(value)
        if name not in _READERS:
            continue
        shapes = [
            static_shape(argument) for argument in value.args if getattr(argument, "ty", None) is not None
        ]
        result = static_shape(value)
        if shapes[0] is None or result is None:
            continue
        found = _READERS[name](value, shapes, result)
        if found is not None:
            family, sizes = found
            yield ("geglu" if any(value.same_as(one) for one in gated) else family), sizes


def _conv2d(call: Any, shapes: list[Any], result: list[int]) -> tuple[str, tuple[int, ...]]:
    _, height, width, depth = shapes[0]
    taps = shapes[1][1]
    strided = int(call.attrs.strides[0]) > 1
    # A down-sampling without padding reads one row and column that were added before.
    height, width = (result[1] * 2, result[2] * 2) if strided else (height, width)
    family = "conv_strided" if strided else "conv1x1" if taps == 1 else "conv3x3"
    return family, (height, width, depth, result[-1])


def _matmul(_call: Any, shapes: list[Any], result: list[int]) -> tuple[str, tuple[int, ...]] | None:
    if shapes[1] is None or len(shapes[1]) != 2:
        return None
    return "matmul", (math.prod(result[:-1]), shapes[0][-1], result[-1])


def _attention(_call: Any, shapes: list[Any], result: list[int]) -> tuple[str, tuple[int, ...]]:
    return "attention", (result[1], shapes[1][1], result[2], result[3])


def _group_norm(call: Any, _shapes: list[Any], result: list[int]) -> tuple[str, tuple[int, ...]]:
    channels = result[int(call.attrs.channel_axis)]
    return "group_norm", (math.prod(result[1:]) // channels, channels, int(call.attrs.num_groups))


def _layer_norm(_call: Any, _shapes: list[Any], result: list[int]) -> tuple[str, tuple[int, ...]]:
    return "layer_norm", (math.prod(result[:-1]), result[-1])


def _resize(_call: Any, shapes: list[Any], _result: list[int]) -> tuple[str, tuple[int, ...]]:
    return "resize", tuple(shapes[0][1:])


_READERS = {
    "relax.nn.conv2d": _conv2d,
    "relax.matmul": _matmul,
    "relax.nn.attention": _attention,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.layer_norm": _layer_norm,
    "relax.image.resize2d": _resize,
}


def _text(shapes: ModelShapes) -> str:
    """JSON with a line a kernel."""
    data = to_json(shapes)
    lines = ",\n".join(f"  {json.dumps(kernel)}" for kernel in data["kernels"])
    return f'{{"model": {json.dumps(data["model"])}, "kernels": [\n{lines}\n]}}'


if __name__ == "__main__":
    print(_text(list_shapes(sys.argv[1], Path(sys.argv[2]))))
