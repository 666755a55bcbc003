"""Computes a convolution in parts where one of its operands is larger than the device takes.

Before::

    y = R.nn.conv2d(x, w)                                                     # w [O, H, W, C]

After, by output channels, where only the weights are too large or that moves fewer bytes::

    y = R.concat((R.nn.conv2d(x, w[: O / 2]), R.nn.conv2d(x, w[O / 2 :])), axis=-1)

or by input channels, where the input is too large too::

    y = R.nn.conv2d(x[..., : C / 2], w[..., : C / 2]) + R.nn.conv2d(x[..., C / 2 :], w[..., C / 2 :])

Limits are the largest allocation and, where products read pixels, the largest image. A part of the weights
is a slice of them, which ``LowerProducts`` takes after rounding: the numbers are those of the whole. Partial
sums are float32 and rounded to the model's type once, when all are added.

Factors are tried in increasing order, those that divide the channels into whole pixels and groups of scales.
Of the least one along either side the one is taken that moves fewer bytes. Where no factor up to 8 suffices,
the convolution stays: what is too large for an image is then read as a buffer (``kernels/pixels.py``), what
is too large for an allocation is refused (``limit_kernels.py``).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.pack_weights import Kept, StoredWeights, none_kept
from ddimcache.compiler.passes.simplify import op_name, slice_of, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.tiling import PIXEL
from ddimcache.manifest import ITEM_BYTES

MOST_PARTS = 8
"""Of one convolution: with more, launches and copies cost more than reading a large operand as a buffer."""


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution; ``x`` and ``y`` are numbers of its padded input and its output."""

    x: int
    y: int
    outputs: int
    taps: int
    inputs: int
    item: int
    """Bytes of a number of ``x`` and ``y``."""
    weight_item: int
    """Bytes of a weight as it is stored."""
    group: int
    """Input channels that share a scale; 0 where an output channel has one."""


@dataclass(frozen=True)
class Parts:
    """``count`` parts along ``side``, ``inputs`` or ``outputs``."""

    side: str
    count: int


def excess(convolution: Convolution, profile: DeviceProfile, parts: Parts | None = None) -> str:
    """What of ``convolution``, or of one of its ``parts``, is above a limit; empty where nothing is."""
    split = {"inputs": 1, "outputs": 1}
    if parts is not None:
        split[parts.side] = parts.count
    inputs, outputs = (getattr(convolution, side) // count for side, count in split.items())
    weights = outputs * convolution.taps * inputs
    if weights * convolution.weight_item > profile.max_allocation:
        return "weights"
    if profile.tiles.pixels is None or inputs % PIXEL:
        return ""
    most = profile.max_image_pixels * PIXEL
    if weights > most:
        return "weights"
    return "input" if convolution.x // split["inputs"] > most else ""


def moved_bytes(convolution: Convolution, parts: Parts) -> int:
    """Bytes read and written beyond the weights, which are read once either way.

    By output channels the input is read for every part, and the results are copied together. By input
    channels parts of the input are copied, and partial sums in float32 are written and read.
    """
    x, y = convolution.x * convolution.item, convolution.y * convolution.item
    if parts.side == "outputs":
        return parts.count * x + 3 * y
    return 3 * x + y + 2 * (parts.count - 1) * convolution.y * ITEM_BYTES["float32"]


def choose(convolution: Convolution, profile: DeviceProfile) -> Parts | None:
    """The parts that satisfy ``profile`` with the least factor of their side; None where none do."""
    found = [
        parts for side in ("outputs", "inputs") if (parts := _least(convolution, profile, side)) is not None
    ]
    return min(found, key=lambda parts: moved_bytes(convolution, parts), default=None)


def _least(convolution: Convolution, profile: DeviceProfile, side: str) -> Parts | None:
    channels = getattr(convolution, side)
    multiple = math.lcm(PIXEL, convolution.group or 1) if side == "inputs" else PIXEL
    for count in range(2, MOST_PARTS + 1):
        parts = Parts(side, count)
        if channels % (count * multiple) == 0 and not excess(convolution, profile, parts):
            return parts
    return None


@mutator
class _Serializer(PyExprMutator):
    def __init__(self, module: tvm.IRModule, profile: DeviceProfile, stored: StoredWeights) -> None:
        super().__init__(module)
        self.profile = profile
        self.stored = stored
        self.done: Counter[str] = Counter()

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) != "relax.nn.conv2d":
            return call
        convolution = self._sizes(call)
        reason = excess(convolution, self.profile)
        if not reason:
            self.done["within the limits"] += 1
            return call
        parts = choose(convolution, self.profile)
        if parts is None:
            self.done[f"left whole, no {MOST_PARTS} parts are within them ({reason} too large)"] += 1
            return call
        self.done[f"in {parts.count} parts along {parts.side} ({reason} too large)"] += 1
        return self._by_outputs(call, parts) if parts.side == "outputs" else self._by_inputs(call, parts)

    def _sizes(self, call: relax.Call) -> Convolution:
        x, weight, out = (static_shape(one) or [] for one in (*call.args, call))
        outputs, height, width, inputs = weight
        padding = [int(value) for value in call.attrs.padding]
        top, left, bottom, right = padding if len(padding) == 4 else padding * (4 // len(padding))
        padded = x[0] * (x[1] + top + bottom) * (x[2] + left + right) * x[3]
        # What was parted before is rounded as the whole.
        whole = tuple(static_shape(self._whole(call.args[1])) or ())
        kind, dtype = self.stored.stored(whole, self._name(call.args[1]))
        return Convolution(
            padded,
            math.prod(out),
            outputs,
            height * width,
            inputs,
            ITEM_BYTES[str(call.ty.dtype)],
            ITEM_BYTES[dtype],
            self.stored.group(whole) if kind == "int8" else 0,
        )

    def _name(self, weight: relax.Expr) -> str:
        """The store's name of the weight that ``weight`` is, moved or cut; nothing for what is computed."""
        while isinstance(weight, relax.Var) and (value := self.lookup_binding(weight)) is not None:
            weight = value.args[0] if isinstance(value, relax.Call) else value
        return weight.name if isinstance(weight, relax.Var) else ""

    def _whole(self, weight: relax.Expr) -> relax.Expr:
        while isinstance(weight, relax.Var) and (part := slice_of(self.lookup_binding(weight))) is not None:
            weight = part[0]
        return weight

    def _by_outputs(self, call: relax.Call, parts: Parts) -> relax.Expr:
        x, weight = call.args
        pieces = [
            self.builder_.emit(self._conv2d(call, x, self._slice(weight, 0, number, parts.count)))
            for number in range(parts.count)
        ]
        return self.builder_.normalize(relax.op.concat(pieces, -1))

    def _by_inputs(self, call: relax.Call, parts: Parts) -> relax.Expr:
        x, weight = call.args
        dtype, total = str(call.ty.dtype), None
        for number in range(parts.count):
            own, weights = (self._slice(one, 3, number, parts.count) for one in (x, weight))
            # A part that is rounded before it is added would lose what one sum keeps.
            part = self.builder_.emit(self._conv2d(call, own, weights, "float32"))
            total = part if total is None else self.builder_.emit(relax.op.add(total, part))
        assert total is not None
        return total if dtype == "float32" else self.builder_.normalize(relax.op.astype(total, dtype))

    def _slice(self, tensor: relax.Expr, axis: int, number: int, count: int) -> relax.Expr:
        size = (static_shape(tensor) or [])[axis] // count
        part = relax.op.strided_slice(tensor, [axis], [number * size], [(number + 1) * size])
        return self.builder_.emit(part)

    def _conv2d(
        self, call: relax.Call, x: relax.Expr, weight: relax.Expr, out_dtype: str | None = None
    ) -> relax.Expr:
        attributes = call.attrs
        return relax.op.nn.conv2d(
            x,
            weight,
            strides=attributes.strides,
            padding=attributes.padding,
            dilation=attributes.dilation,
            groups=attributes.groups,
            data_layout=attributes.data_layout,
            kernel_layout=attributes.kernel_layout,
            out_layout=attributes.out_layout,
            out_dtype=out_dtype or attributes.out_dtype,
        )


@tvm.transform.module_pass(opt_level=0, name="SerializeConv2d")
class SerializeConv2d:
    """See the module's text; ``weights`` is a ``WeightsKind``. Layouts are NHWC and OHWI.

    After the pass, ``note`` says how many convolutions are in how many parts and why, and how many are not.
    """

    def __init__(self, profile: DeviceProfile, weights: str, kept: Kept = none_kept) -> None:
        self.profile = profile
        self.stored = StoredWeights(profile, weights, kept)
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Serialises in every Relax function of ``module``."""
        serializer = _Serializer(module, self.profile, self.stored)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                serializer.builder_.update_func(variable, serializer.visit_expr(function))
        self.note = ", ".join(f"{count} {what}" for what, count in sorted(serializer.done.items()))
        return serializer.builder_.get()
