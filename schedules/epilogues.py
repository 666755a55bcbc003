"""Results of a product that a kernel with loops of its own computes, stored as the fused kernel stores them.

Fusion leaves a kernel as a product and blocks behind it: scale, bias, residual sum. A kernel whose loops are
not those of the product cannot have them moved into it; what they do with one sum is taken from them instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm_ffi
from tvm import ir, s_tir, tirx
from tvm.script import tirx as T
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder.tirx import prim_func

from ddimcache.kernels.tags import GROUPED
from ddimcache.schedules.blocks import inline_all_but, products, sblock_names

Finish = Callable[[Sequence[Any], Callable[[Sequence[Any]], Any]], None]


@dataclass(frozen=True)
class Product:
    """A product of a fused kernel: its tensors and its block's annotations.

    ``x``, packed ``weight``, and the ``scale`` of its groups or None.

    ``shape`` is of all sums, those of whole panels; ``stored`` are the extents of the indices of ``finish``.

    ``finish(indices, read)`` emits the store of what becomes of the sum at ``indices``, those of the product
    that are not constant where it is read; ``read`` of all its indices gives the float32 sum.
    """

    x: Any
    weight: Any
    scale: Any
    shape: tuple[int, ...]
    stored: tuple[int, ...]
    annotations: dict[str, Any]
    finish: Finish


def read_product(function: tirx.PrimFunc) -> Product | None:
    """The product of ``function``; ``None`` without one, or if something else than its own place is read."""
    schedule = s_tir.Schedule(function)
    names = products(schedule)
    if len(names) != 1:
        return None
    later = [name for name in sblock_names(schedule) if name != names[0]]
    inline_all_but(schedule, {names[0], *later[-1:]})
    block = schedule.get(schedule.get_sblock(names[0]))
    out = block.writes[0].source
    shape = stored = tuple(int(extent) for extent in out.ty.shape)
    finish: Finish | None = _store_sum(out)
    if later:
        stored, finish = _store_result(schedule.get(schedule.get_sblock(later[-1])), out)
    if finish is None:
        return None
    annotations = dict(block.annotations.items())
    x, weight, *others = (region.source for region in block.reads)
    scale = others[0] if GROUPED in annotations else None
    return Product(x, weight, scale, shape, stored, annotations, finish)


def _store_sum(out: Any) -> Finish:
    def finish(indices: Sequence[Any], read: Callable[[Sequence[Any]], Any]) -> None:
        T.buffer_store(out, read(indices), [T.cast(index, "int64") for index in indices])

    return finish


def _store_result(block: Any, product: Any) -> tuple[tuple[int, ...], Finish | None]:
    """What ``block`` does with the sums at the place that its iterators name, or ``None``; their extents."""
    store = block.body
    loads: list[Any] = []

    def collect(load: Any) -> None:
        if load.source.same_as(product):
            loads.append(load)

    tvm_ffi.structural_walk(store, [(ir.TensorLoad, collect)], order="post")
    if not isinstance(store, tirx.BufferStore) or not loads:
        return (), None
    places = [index for index in loads[0].indices if not isinstance(index, tirx.IntImm)]
    extents = {iterator.var: int(iterator.dom.extent) for iterator in block.iter_vars}
    if set(places) != set(extents) or len(places) != len(extents):
        return (), None
    for load in loads[1:]:
        others = [index for index in load.indices if not isinstance(index, tirx.IntImm)]
        if len(others) != len(places) or not all(map(lambda a, b: a.same_as(b), others, places)):
            return (), None

    def finish(indices: Sequence[Any], read: Callable[[Sequence[Any]], Any]) -> None:
        at = dict(zip(places, (T.cast(index, "int64") for index in indices), strict=True))
        rules = [
            (ir.TensorLoad, lambda load: read(load.indices) if load.source.same_as(product) else load),
            (ir.Var, lambda variable: at.get(variable, variable)),
        ]
        result = tvm_ffi.structural_map(store.value, rules, order="post")
        where = [tvm_ffi.structural_map(index, rules, order="post") for index in store.indices]
        T.buffer_store(store.buffer, result, where)

    return tuple(extents[place] for place in places), finish


def with_loops(function: tirx.PrimFunc, emit: Callable[[], None]) -> tirx.PrimFunc:
    """``function`` with the statements that ``emit`` builds in place of its own."""
    with IRBuilder() as builder, prim_func(s_tir=True):
        T.func_name("main")
        with T.sblock("root"):
            T.reads()
            T.writes()
            emit()
    return function.with_body(builder.get().body)
