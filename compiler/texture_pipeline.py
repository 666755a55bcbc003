"""What TVM 0.27 lacks to compile its own programs for textures.

For a target with the key ``texture`` its passes put tensors into images (``global.texture`` and its kin), but

- ``tvm.compile`` lowers them with the pipeline ``s_tir`` whatever the target is, which knows no textures:
  kernels index images like pointers, and no driver compiles them. The pipeline ``adreno`` does know them, but
  its factory returns one pass where three are unpacked (``TypeError: cannot unpack non-iterable ModulePass
  object``).
- ``VectorizeLoop`` runs a vectorised loop one lane after another when a pixel is stored in it, and each lane
  then writes its number to all four channels.
- It does not widen what is allocated inside a vectorised loop: the lanes of a pool share one accumulator.

``tvm.compile(module, target=…, tir_pipeline=TEXTURE_PIPELINE)`` compiles them right once :func:`register` was
called. The Relax VM then wants the device once for every memory scope: ``VirtualMachine(library,
[device] * n)`` with n at least the number of ``vdevice`` entries that TVM's passes made; more do no harm.
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.s_tir.backend.adreno.pipeline import default_tir_pipeline
from tvm.tirx import compilation_pipeline

TEXTURE_PIPELINE = "ddimcache-texture"


def register() -> None:
    """Make :data:`TEXTURE_PIPELINE` known to TVM; again is no error."""
    compilation_pipeline.register_tir_pipeline(TEXTURE_PIPELINE, _pipelines)


def _pipelines() -> tuple[Any, Any, Any]:
    _, finalize_host, finalize_device = compilation_pipeline.get_tir_pipeline("default")
    return _lower(), finalize_host, finalize_device


def _lower() -> Any:
    """TVM's pipeline for Adreno with :data:`VectorizeTextures` in front of its ``VectorizeLoop``."""
    vectorize_loop = tirx.transform.VectorizeLoop

    def prepared(enable_vectorize: bool = True) -> Any:
        return tvm.ir.transform.Sequential([VectorizeTextures, vectorize_loop(enable_vectorize)])

    @tvm.transform.module_pass(opt_level=0, name="LowerTextures")
    def lower(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        # The pipeline is one opaque pass that makes its list when it runs; it looks this name up then.
        tirx.transform.VectorizeLoop = prepared
        try:
            return default_tir_pipeline()(module)
        finally:
            tirx.transform.VectorizeLoop = vectorize_loop

    return lower


@tirx.transform.prim_func_pass(opt_level=0, name="VectorizeTextures")
def VectorizeTextures(
    function: tirx.PrimFunc, _module: tvm.IRModule, _context: tvm.transform.PassContext
) -> tirx.PrimFunc:
    """Rewrite vectorised loops so that ``VectorizeLoop`` gets them right.

    ::

        for k in T.vectorized(4): texture2d_store(image, x, y, layer, bits, value(k))

    becomes

    ::

        pixel = alloc_buffer((4,), scope="local")
        for k in T.vectorized(4): pixel[k] = value(k)
        texture2d_store(image, x, y, layer, bits, pixel[0:4])

    and what is allocated in such a loop is allocated before it, once a lane.
    """

    def replace(loop: tirx.For) -> tirx.Stmt:
        if loop.kind != tirx.ForKind.VECTORIZED or not isinstance(loop.extent, tirx.IntImm):
            return loop
        allocations, loop = _widen_allocations(loop)
        stored = _store_whole_pixel(loop, loop.body)
        statement = loop if stored is None else stored
        return tirx.SeqStmt([*allocations, statement]) if allocations else statement

    return function.with_body(tvm_ffi.structural_map(function.body, [(tirx.For, replace)], order="post"))


def _widen_allocations(loop: tirx.For) -> tuple[list[tirx.Stmt], tirx.For]:
    """Return allocations to go before the loop, and the loop without them."""
    found: list[tirx.Buffer] = []
    tvm_ffi.structural_walk(loop.body, [(tirx.AllocBuffer, lambda statement: found.append(statement.buffer))])
    if not found:
        return [], loop
    lanes = int(loop.extent)
    wide = []
    for buffer in found:
        (length,) = buffer.shape  # FlattenBuffer has run
        wide.append(tirx.decl_buffer((length * lanes,), buffer.dtype, buffer.name, scope=buffer.scope()))

    def new_buffer(old: tirx.Buffer) -> tirx.Buffer | None:
        return next((new for mine, new in zip(found, wide, strict=True) if mine.same_as(old)), None)

    def lane(indices: Any) -> list[Any]:
        return [indices[0] * lanes + (loop.loop_var - loop.min)]

    def load(access: tvm.ir.TensorLoad) -> Any:
        buffer = new_buffer(access.source)
        return access if buffer is None else tirx.BufferLoad(buffer, lane(access.indices))

    def store(access: tirx.BufferStore) -> Any:
        buffer = new_buffer(access.buffer)
        return access if buffer is None else tirx.BufferStore(buffer, access.value, lane(access.indices))

    def no_allocation(statement: tirx.AllocBuffer) -> Any:
        return tirx.Evaluate(0)

    body = tvm_ffi.structural_map(
        loop.body,
        [(tvm.ir.TensorLoad, load), (tirx.BufferStore, store), (tirx.AllocBuffer, no_allocation)],
        order="post",
    )
    return [tirx.AllocBuffer(buffer) for buffer in wide], tirx.For(
        loop.loop_var, loop.min, loop.extent, loop.kind, body, None, loop.annotations
    )


def _store_whole_pixel(loop: tirx.For, body: tirx.Stmt) -> tirx.Stmt | None:
    """Return what replaces a loop that stores one pixel, or None where it does something else."""
    if isinstance(body, tirx.IfThenElse):
        if body.else_case is not None or _uses(body.condition, loop.loop_var):
            return None
        stored = _store_whole_pixel(loop, body.then_case)
        return None if stored is None else tirx.IfThenElse(body.condition, stored, None)
    if not isinstance(body, tirx.Evaluate) or not isinstance(body.value, tvm.ir.Call):
        return None
    call = body.value
    if not call.op.same_as(tvm.ir.Op.get("tirx.texture2d_store")) or int(loop.extent) != 4:
        return None
    *place, value = call.args
    pixel = tirx.decl_buffer((4,), value.ty.dtype, "pixel", scope="local")
    fill = tirx.For(
        loop.loop_var,
        loop.min,
        loop.extent,
        tirx.ForKind.VECTORIZED,
        tirx.BufferStore(pixel, value, [loop.loop_var - loop.min]),
    )
    whole = tirx.BufferLoad(pixel, [tirx.Ramp(0, 1, 4)])
    store = tvm.ir.Call(call.op, [*place, whole], call.attrs, call.ty_args, None, call.ty)
    return tirx.SeqStmt([tirx.AllocBuffer(pixel), fill, tirx.Evaluate(store)])


def _uses(expression: Any, variable: tirx.Var) -> bool:
    found = []
    tvm_ffi.structural_walk(
        expression, [(tirx.Var, lambda node: found.append(node) if node.same_as(variable) else None)]
    )
    return bool(found)
