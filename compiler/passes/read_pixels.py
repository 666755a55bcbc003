"""Turns copies of four numbers into reads of pixels, in kernels that ask for it.

In a kernel with the attribute ``PIXELS`` (``kernels/tags.py``), after blocks are gone and buffers are flat::

    for v in T.vectorized(4):
        x_local[i + v] = T.Cast("float32", x[4 * j + v])
        w_local[i + v] = T.Cast("float16", w[4 * j + v]) * T.float16(1 / 127)     # int8

becomes::

    x_local[i : i + 4] = read_imagef(x, j)
    w_local[i : i + 4] = read_imageh(w, j)

The runtime declares what is read so as an image over the buffer, int8 as CL_SNORM_INT8, whose fractions of
127 the texture path computes (``runtime/cc/pixel_source.h``). A copy that begins inside a pixel stays, and so
do those of a tensor of more pixels than the device's images may have: it is read as a buffer. Attention reads
pixels itself (``kernels/attention/pixels.py``) and has no such attribute.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, sym, tirx

from ddimcache.kernels.pixels import FRACTION
from ddimcache.kernels.tags import PIXELS
from ddimcache.kernels.tiling import PIXEL

_FLATTEN = tvm.ir.transform.Sequential(
    [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.LiftThreadBinding(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.UnifyThreadBinding(),
        s_tir.transform.StmtSimplify(),
        s_tir.transform.LowerOpaqueBlock(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
    ]
)


@tvm.transform.module_pass(opt_level=0, name="ReadPixels")
class ReadPixels:
    """See the module's text; ``most`` is the largest image in pixels.

    Kernels without the attribute stay as they are.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Rewrites every kernel of ``module`` that reads pixels."""
        chosen = {
            variable: function
            for variable, function in module.functions_items()
            if isinstance(function, tirx.PrimFunc) and PIXELS in function.attrs
        }
        if not chosen:
            return module
        flat = _FLATTEN(tvm.IRModule(chosen))
        functions = dict(module.functions_items())
        for variable in chosen:
            functions[variable] = _read_pixels(flat[variable.name_hint], self.most)
        return tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def _read_pixels(function: tirx.PrimFunc, most: int) -> tirx.PrimFunc:
    def replace(loop: tirx.For) -> tirx.Stmt:
        if loop.kind == tirx.ForKind.SERIAL and isinstance(loop.min, tirx.IntImm) and int(loop.min) == 0:
            return _count_places(loop)
        if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(loop.extent, tirx.IntImm):
            return loop
        return _pixel(loop, most) or loop

    return function.with_body(tvm_ffi.structural_map(function.body, [(tirx.For, replace)], order="post"))


def _count_places(loop: tirx.For) -> tirx.Stmt:
    """Counts the places that a loop reads on from where it begins, instead of computing each anew.

    A driver's compiler that finds a sum of products in a loop may well compute it there every time. The
    number is put into a buffer: what is merely bound to a name is written out wherever it is used.
    """
    inside = [loop.loop_var]
    tvm_ffi.structural_walk(loop.body, [(tirx.For, lambda other: inside.append(other.loop_var))])
    places: list[tuple[Any, int, tirx.Buffer]] = []

    def place_of(start: Any, step: int) -> Any:
        for known, known_step, buffer in places:
            if known_step == step and tvm_ffi.structural_equal(known, start):
                return tirx.BufferLoad(buffer, [0])
        buffer = tirx.decl_buffer((1,), "int32", f"place_{len(places)}", scope="local")
        places.append((start, step, buffer))
        return tirx.BufferLoad(buffer, [0])

    def replace(call: tvm.ir.Call) -> Any:
        if len(call.args) != 3 or not str(call.args[0]).strip('"').startswith("read_image"):
            return call
        *head, place = call.args
        if _mentions(place, tvm.ir.TensorLoad, lambda load: True):
            return call  # A loop inside has done it.
        fixed: list[Any] = []
        moving: list[Any] = []
        step = 0
        for term in _terms(place):
            factor = _factor(term, loop.loop_var)
            moves = _mentions(term, tirx.Var, lambda one: any(one.same_as(other) for other in inside))
            # A counter that moves by more than one pixel is left alone: with it, Mesa's compiler for the
            # Adreno 740 waited twice for what a loop reads.
            if factor == 1:
                step += factor
            else:
                (moving if moves or isinstance(term, tirx.IntImm) else fixed).append(term)
        if not fixed:
            return call
        place = sum(moving, place_of(sum(fixed[1:], fixed[0]), step))
        return tirx.call_pure_extern(call.ty.dtype, *head, place)

    body = tvm_ffi.structural_map(loop.body, [(tvm.ir.Call, replace)], order="post")
    if not places:
        return loop
    steps = [
        tirx.BufferStore(buffer, tirx.BufferLoad(buffer, [0]) + step, [0])
        for _, step, buffer in places
        if step
    ]
    if steps:
        body = tirx.SeqStmt([body, *steps])
    new = tirx.For(loop.loop_var, loop.min, loop.extent, loop.kind, body, None, loop.annotations)
    before = [statement for start, _, buffer in places for statement in _stored(buffer, start)]
    return tirx.SeqStmt([*before, new])


def _factor(term: Any, variable: tirx.Var) -> int | None:
    """The number that ``term`` multiplies ``variable`` with, if it is no more than that."""
    if isinstance(term, tirx.Var) and term.same_as(variable):
        return 1
    if isinstance(term, tirx.Mul) and isinstance(term.b, tirx.IntImm):
        factor = _factor(term.a, variable)
        return None if factor is None else factor * int(term.b)
    return None


def _stored(buffer: tirx.Buffer, value: Any) -> list[tirx.Stmt]:
    return [tirx.AllocBuffer(buffer), tirx.BufferStore(buffer, value, [0])]


def _mentions(expression: Any, kind: type, test: Callable[[Any], bool]) -> bool:
    found: list[Any] = []
    tvm_ffi.structural_walk(expression, [(kind, lambda node: found.append(node) if test(node) else None)])
    return bool(found)


def _terms(expression: Any) -> list[Any]:
    if isinstance(expression, tirx.Add):
        return [*_terms(expression.a), *_terms(expression.b)]
    return [expression]


def _pixel(loop: tirx.For, most: int) -> tirx.Stmt | None:
    store = loop.body
    if (
        int(loop.extent) != PIXEL
        or not isinstance(store, tirx.BufferStore)
        or store.buffer.scope() != "local"
    ):
        return None
    load, dtype = _loaded(store.value)
    if load is None or load.source.scope() != "global" or dtype not in ("float16", "float32"):
        return None
    if math.prod(int(side) for side in load.source.shape) > most * PIXEL:
        return None
    analyzer = sym.Analyzer()

    def first(index: Any) -> Any:
        def put(variable: tirx.Var) -> Any:
            return loop.min if variable.same_as(loop.loop_var) else variable

        return analyzer.simplify(tvm_ffi.structural_map(index, [(tirx.Var, put)], order="post"))

    start, target = first(load.indices[0]), first(store.indices[0])
    if not analyzer.can_prove_equal(tirx.floormod(start, PIXEL), 0):
        return None
    place = analyzer.simplify(tirx.floordiv(start, PIXEL))
    name = "read_imageh" if dtype == "float16" else "read_imagef"
    pixel = tirx.call_pure_extern(f"{dtype}x{PIXEL}", name, load.source.data, place)
    return tirx.BufferStore(store.buffer, pixel, [tirx.Ramp(target, 1, PIXEL)])


def _loaded(value: Any) -> tuple[Any, str]:
    """What an expression loads and the type it makes of it, if it does as a read of pixels does."""
    if isinstance(value, tirx.Mul) and isinstance(value.b, tirx.FloatImm):
        load, dtype = _loaded(value.a)
        fraction = float(tirx.const(1 / FRACTION, dtype)) if load is not None else 0.0
        is_int8 = load is not None and str(load.ty.dtype) == "int8"
        return (load, dtype) if is_int8 and float(value.b) == fraction else (None, "")
    dtype = str(value.ty.dtype)
    load = value.value if isinstance(value, tirx.Cast) else value
    return (load, dtype) if isinstance(load, tvm.ir.TensorLoad) else (None, "")
