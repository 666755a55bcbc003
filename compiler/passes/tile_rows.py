"""Cuts large pictures into bands of rows, so that no buffer and no moment needs all of one at once.

Before::

    a = R.nn.silu(R.nn.group_norm(x, w, b)); y = R.add(R.nn.conv2d(a, k, padding=1), bias)

After, with two bands (x0, x1 are the bands of x, s its statistics)::

    s = parameters(moments(x0, x0), moments(x1, x0), x0, weight, bias)
    y0 = R.add(R.nn.conv2d(R.nn.silu(apply(R.concat(x0, x1[:1]), s)), k, padding=[1, 1, 0, 1]), bias)
    y1 = R.add(R.nn.conv2d(R.nn.silu(apply(R.concat(x0[-1:], x1), s)), k, padding=[0, 1, 1, 1]), bias)

The bands are those of the whole picture and not pictures of their own: a convolution reads rows of the
neighbouring bands, and GroupNorm's statistics are the whole picture's. The result is therefore that of one
piece, but for the order in which float32 sums of statistics are taken, and no seam can be seen.

Everything between two normalisations runs band after band. What a convolution reads (normalised, activated,
enlarged and padded) exists for one band at a time, and a band is freed as soon as its last reader is done;
so the plan needs little more than what must be kept whole from one normalisation to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import tvm
from tvm import relax

from ddimcache.compiler.passes.lower_norms import apply_parameters, flat_rows, moments, parameters
from ddimcache.compiler.passes.partition_at_cut import substitute
from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.compiler.target import DeviceProfile
from ddimcache.manifest import ITEM_BYTES

CONV, RESIZE, GROUP_NORM, CONCAT = (
    "relax.nn.conv2d",
    "relax.image.resize2d",
    "relax.nn.group_norm",
    "relax.concat",
)
ELEMENT_WISE = frozenset(
    f"relax.{name}"
    for name in (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "power"),
        *("astype", "clip", "round", "negative", "abs", "exp", "log", "sqrt", "rsqrt", "tanh", "sigmoid"),
        *("nn.silu", "nn.relu", "nn.gelu", "nn.gelu_tanh"),
    )
)
ROWS = 1
"""The axis of rows in NHWC."""


@dataclass(frozen=True)
class Tiling:
    """Tensors of more than ``limit`` bytes become ``bands`` bands of rows; ``reason`` is for people.

    Tiles of convolutions in two launches (``kernels/conv2d/tiled.py``) may have ``tile_bytes``.
    """

    bands: int
    limit: int
    reason: str
    tile_bytes: int = 0


@dataclass
class _Band:
    """How a variable is cut: its height, where its bands begin and end, and when they are computed.

    ``fresh`` is a convolution with the element-wise work behind it, which becomes one kernel. ``lazy`` is
    never stored: its reader computes the rows that it needs, with those that two bands share.
    """

    height: int
    bounds: list[int]
    fresh: bool
    lazy: bool = False


def _bytes(expr: relax.Expr) -> int:
    return math.prod(static_shape(expr) or [0]) * ITEM_BYTES[str(expr.ty.dtype)]


def _tensors(call: relax.Call) -> list[relax.Expr]:
    """The tensors that ``call`` reads, those in a tuple too."""
    found: list[relax.Expr] = []
    for argument in call.args:
        fields = list(argument.fields) if isinstance(argument, relax.Tuple) else [argument]
        found += [field for field in fields if static_shape(field) is not None]
    return found


def _integers(values: object) -> list[int]:
    return [int(value) for value in values]  # type: ignore[attr-defined]


def _padding(call: relax.Call) -> list[int]:
    """Top, left, bottom, right."""
    padding = _integers(call.attrs.padding)
    return padding if len(padding) == 4 else padding * (4 // len(padding))


def _can_be_cut(call: relax.Call) -> bool:
    """Whether rows of the result need only some rows of what ``call`` reads, and statistics."""
    name = op_name(call)
    if name not in ELEMENT_WISE and name not in (CONV, RESIZE, GROUP_NORM, CONCAT):
        return False
    shape = static_shape(call)
    if shape is None or len(shape) != 4:
        return False
    if name == CONV:
        attributes = call.attrs
        layouts = (attributes.data_layout, attributes.out_layout, attributes.kernel_layout)
        return layouts == ("NHWC", "NHWC", "OHWI") and _integers(attributes.dilation) == [1, 1]
    if name == RESIZE:
        source = static_shape(call.args[0]) or [0] * 4
        # These choose the row r // factor: what a row reads does not depend on where a band begins.
        mode = (call.attrs.coordinate_transformation_mode, call.attrs.rounding_method)
        plain = mode == ("half_pixel", "round") or mode == ("asymmetric", "floor")
        whole = all(source[axis] and shape[axis] % source[axis] == 0 for axis in (1, 2))
        return call.attrs.layout == "NHWC" and call.attrs.method == "nearest_neighbor" and plain and whole
    if name == GROUP_NORM:
        return int(call.attrs.channel_axis) % 4 == 3 and sorted(_integers(call.attrs.axes)) == [1, 2]
    if name == CONCAT:
        return int(call.attrs.axis) % 4 != ROWS
    # A tensor of three axes would be broadcast with its first one along the rows.
    shapes = [static_shape(tensor) or [] for tensor in _tensors(call)]
    return all(len(other) != 3 or other[0] == 1 for other in shapes)


class _Plan:
    """Which variables of a function are cut, and how."""

    def __init__(self, function: relax.Function, tiling: Tiling) -> None:
        self.bands, self.limit = tiling.bands, tiling.limit
        self.bindings = [binding for block in function.body.blocks for binding in block.bindings]
        self.calls = {binding.var: binding.value for binding in self.bindings}
        self.readers: dict[relax.Var, list[relax.Var | None]] = {}
        for binding in self.bindings:
            for variable in _read(binding.value):
                self.readers.setdefault(variable, []).append(binding.var)
        for variable in _read(function.body.body):
            self.readers.setdefault(variable, []).append(None)
        self.cut: dict[relax.Var, _Band] = {}
        for binding in self.bindings:
            self._cut(binding)
        for binding in reversed(self.bindings):
            if binding.var in self.cut:
                self.cut[binding.var].lazy = self._is_lazy(binding)

    def _cut(self, binding: relax.Binding) -> None:
        call = binding.value
        if not isinstance(call, relax.Call) or not _can_be_cut(call):
            return
        name = op_name(call)
        height = (static_shape(call) or [])[ROWS]
        read = [operand for operand in _tensors(call) if operand in self.cut]
        fresh = name == CONV
        if name in ELEMENT_WISE or name == CONCAT:
            if not read or any(self.cut[operand].height != height for operand in read):
                return
            fresh = name in ELEMENT_WISE and any(
                self.cut[operand].fresh and len(self.readers[operand]) == 1 for operand in read
            )
        if name in (CONV, RESIZE, GROUP_NORM):
            read = [operand for operand in read if operand.same_as(call.args[0])]
        large = _bytes(binding.var) > self.limit or any(_bytes(operand) > self.limit for operand in read)
        if large or (fresh and name != CONV):
            count = min(self.bands, height)
            self.cut[binding.var] = _Band(height, [height * k // count for k in range(count + 1)], fresh)

    def _is_lazy(self, binding: relax.Binding) -> bool:
        variable, readers = binding.var, self.readers.get(binding.var, [])
        if self.cut[variable].fresh or len(readers) != 1 or readers[0] not in self.cut:
            return False
        reader = self.calls[readers[0]]
        if op_name(reader) == CONV:
            return bool(reader.args[0].same_as(variable))
        return self.cut[readers[0]].lazy and op_name(reader) != GROUP_NORM


def _read(expr: relax.Expr) -> list[relax.Var]:
    """The variables in ``expr``, one as often as it is there."""
    if isinstance(expr, relax.Var):
        return [expr]
    if isinstance(expr, relax.Tuple):
        return [variable for field in expr.fields for variable in _read(field)]
    if isinstance(expr, relax.TupleGetItem):
        return _read(expr.tuple_value)
    if isinstance(expr, relax.Call):
        return [variable for argument in expr.args for variable in _read(argument)]
    return []


class _Writer:
    """Writes a function again, band by band where its plan says so."""

    def __init__(self, builder: relax.BlockBuilder, plan: _Plan, profile: DeviceProfile) -> None:
        self.builder, self.plan, self.profile = builder, plan, profile
        self.whole: dict[relax.Var, relax.Expr] = {}
        self.done: dict[tuple[relax.Var, int, int], relax.Expr] = {}
        self.parameters: dict[relax.Var, relax.Expr] = {}

    def write(self, binding: relax.Binding) -> None:
        """Writes a binding; one that is cut is written where its bands are first needed."""
        variable, value = binding.var, binding.value
        if variable not in self.plan.cut:
            self.whole[variable] = self.builder.emit(self.expr(value))
            return
        if op_name(value) == GROUP_NORM:
            self.parameters[variable] = self._parameters(value)

    def expr(self, expr: relax.Expr) -> relax.Expr:
        """``expr`` over the variables written so far, where it reads bands over their rows put together."""
        for variable in _read(expr):
            if variable in self.plan.cut and variable not in self.whole:
                self.whole[variable] = self.rows(variable, 0, self.plan.cut[variable].height)
        return substitute(expr, self.whole)

    def rows(self, expr: relax.Expr, first: int, end: int) -> relax.Expr:
        """Rows ``first`` to ``end`` of a variable."""
        if expr not in self.plan.cut:
            source = substitute(expr, self.whole)
            return self._slice(source, first, end)
        band = self.plan.cut[expr]
        if band.lazy or (first, end) in pairwise(band.bounds):
            if (expr, first, end) not in self.done:
                self.done[expr, first, end] = self._compute(expr, first, end)
            return self.done[expr, first, end]
        parts = []
        for low, high in pairwise(band.bounds):
            if low < end and first < high:
                part = self.rows(expr, low, high)
                parts.append(self._slice(part, max(first, low) - low, min(end, high) - low))
        return parts[0] if len(parts) == 1 else self.builder.emit(relax.op.concat(parts, axis=ROWS))

    def _slice(self, expr: relax.Expr, first: int, end: int) -> relax.Expr:
        if (first, end) == (0, (static_shape(expr) or [])[ROWS]):
            return expr
        return self.builder.emit(relax.op.strided_slice(expr, [ROWS], [first], [end]))

    def _compute(self, variable: relax.Var, first: int, end: int) -> relax.Expr:
        call = self.plan.calls[variable]
        name = op_name(call)
        if name == CONV:
            return self._convolution(call, first, end)
        if name == RESIZE:
            return self._resized(call, first, end)
        if name == GROUP_NORM:
            rows = self.rows(call.args[0], first, end)
            return self.builder.emit(apply_parameters(self.builder, rows, self.parameters[variable]))
        height = self.plan.cut[variable].height

        def operand(expr: relax.Expr) -> relax.Expr:
            if isinstance(expr, relax.Tuple):
                return relax.Tuple([operand(field) for field in expr.fields])
            shape = static_shape(expr)
            # What is broadcast along the rows has one of them, or no such axis.
            if shape is None or len(shape) < 4 or shape[ROWS] != height:
                return self.expr(expr)
            return self.rows(expr, first, end)

        return self.builder.emit(relax.Call(call.op, [operand(part) for part in call.args], call.attrs))

    def _convolution(self, call: relax.Call, first: int, end: int) -> relax.Expr:
        x, weight = call.args
        height = (static_shape(x) or [])[ROWS]
        kernel = (static_shape(weight) or [])[ROWS]
        stride = int(call.attrs.strides[0])
        top, left, _, right = _padding(call)
        low, high = first * stride - top, (end - 1) * stride - top + kernel
        rows = self.rows(x, max(low, 0), min(high, height))
        attributes = call.attrs
        return self.builder.emit(
            relax.op.nn.conv2d(
                rows,
                self.expr(weight),
                strides=_integers(attributes.strides),
                padding=[max(-low, 0), left, max(high - height, 0), right],
                groups=int(attributes.groups),
                data_layout="NHWC",
                kernel_layout="OHWI",
                out_layout="NHWC",
                out_dtype=attributes.out_dtype,
            )
        )

    def _resized(self, call: relax.Call, first: int, end: int) -> relax.Expr:
        source, shape = static_shape(call.args[0]) or [], static_shape(call) or []
        factor = shape[ROWS] // source[ROWS]
        low, high = first // factor, (end - 1) // factor + 1
        rows = self.rows(call.args[0], low, high)
        size = relax.ShapeExpr([(high - low) * factor, shape[2]])
        resized = self.builder.emit(relax.Call(call.op, [rows, size], call.attrs))
        return self._slice(resized, first - low * factor, end - low * factor)

    def _parameters(self, call: relax.Call) -> relax.Expr:
        x, weight, bias = call.args
        parts: list[relax.Expr] = []
        first: relax.Expr | None = None
        bounds = self.plan.cut[x].bounds if x in self.plan.cut else None
        for low, high in pairwise(bounds) if bounds else [(0, 0)]:
            band = flat_rows(self.builder, self.rows(x, low, high) if bounds else self.expr(x))
            first = band if first is None else first
            parts.append(moments(self.builder, band, first, int(call.attrs.num_groups), self.profile.tiles))
        assert first is not None
        sums = parts[0] if len(parts) == 1 else self.builder.emit(relax.op.concat(parts, axis=1))
        own = (self.expr(weight), self.expr(bias))
        return parameters(self.builder, sums, first, call, *own, self.profile.tiles)


@tvm.transform.module_pass(opt_level=0, name="TileRows")
class TileRows:
    """See the module's text.

    A tensor with fewer rows than ``tiling`` has bands becomes a band a row; what the pass cannot cut stays
    whole; without a tiling nothing changes. After the pass, ``note`` says what it did.
    """

    def __init__(self, tiling: Tiling | None, profile: DeviceProfile) -> None:
        self.tiling, self.profile = tiling, profile
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Cuts the tensors of every Relax function of ``module``."""
        if self.tiling is None or self.tiling.bands < 2:
            return module
        functions = {
            variable: function
            for variable, function in module.functions_items()
            if isinstance(function, relax.Function)
        }
        plans = {variable: _Plan(function, self.tiling) for variable, function in functions.items()}
        cut = sum(len(plan.cut) for plan in plans.values())
        if not cut:
            return module
        self.note = f"{cut} tensors in {self.tiling.bands} bands of rows: {self.tiling.reason}"
        kernels = {variable: kernel for variable, kernel in module.functions_items()}
        for variable in functions:
            del kernels[variable]
        builder = relax.BlockBuilder(tvm.IRModule(kernels, attrs=module.attrs))
        for variable, function in functions.items():
            writer = _Writer(builder, plans[variable], self.profile)
            with builder.function(variable.name_hint, list(function.params)):
                with builder.dataflow():
                    for binding in plans[variable].bindings:
                        writer.write(binding)
                    output = builder.emit_output(writer.expr(function.body.body))
                builder.emit_func_output(output)
        result = builder.get()
        for variable, function in functions.items():
            name = variable.name_hint
            result.update_func(result.get_global_var(name), result[name].with_attrs(function.attrs))
        return relax.transform.CanonicalizeBindings()(result)
