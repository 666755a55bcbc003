"""The phases of a compilation, in order, as one list.

Each phase is a name and a pass; :func:`run` applies them, writes the module after each one into a folder
when it is asked to, and reports what changed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.frontend.importer import ImportedComponent
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from ddimcache.compiler.passes.count_work import count_work
from ddimcache.compiler.passes.lower_attention import LowerAttention
from ddimcache.compiler.passes.lower_norms import LowerNorms
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.partition_at_cut import PartitionAtCut
from ddimcache.compiler.passes.simplify import Simplify
from ddimcache.compiler.target import DeviceProfile
from ddimcache.schedules.apply import ApplySchedules

CHANNELS_LAST = {
    "relax.nn.conv2d": ["NHWC", "OHWI", "NHWC"],
    "relax.image.resize2d": ["NHWC"],
}
"""Channels are the contiguous axis: convolutions and linear layers then share a layout, and a vector."""


@dataclass(frozen=True)
class Request:
    """What one component's compilation is asked for.

    ``entry`` names the component's function; ``cut`` is set for the UNet only, which becomes two functions.
    """

    component: ImportedComponent
    profile: DeviceProfile
    weights: str
    entry: str
    cut: int | None = None


@dataclass
class Compilation:
    """A component on its way: the module, its weights, and what the phases found out."""

    module: tvm.IRModule
    store: WeightStore
    inputs: dict[str, int]
    weight_names: list[str] = field(default_factory=list)
    packed_weights: set[str] = field(default_factory=set)
    macs: dict[str, int] = field(default_factory=dict)
    reports: list[tuple[str, int, float]] = field(default_factory=list)


def phases(request: Request, compilation: Compilation) -> Iterator[tuple[str, Any]]:
    """The phases of a component's compilation, first to last."""
    profile, store, inputs = request.profile, compilation.store, compilation.inputs
    yield "fold constants", relax.transform.FoldConstant()
    yield "simplify", Simplify()
    yield "channels last", relax.transform.ConvertLayout(CHANNELS_LAST)
    yield "simplify again", Simplify()
    if request.cut is not None:
        yield "partition at cut", PartitionAtCut(request.cut, request.component.input_count)
    yield "common subexpressions", relax.transform.EliminateCommonSubexpr()
    compilation.macs = {name: count_work(compilation.module[name]) for name in inputs}
    yield "lower attention", LowerAttention(profile)
    yield "lower norms", LowerNorms(profile)
    yield "simplify lowered", Simplify()
    products = LowerProducts(store, profile, request.weights, inputs)
    yield "lower products", products
    compilation.packed_weights = products.lowered
    bundle = BundleWeights(store, inputs)
    yield "bundle weights", bundle
    compilation.weight_names = bundle.names
    yield "legalize", relax.transform.LegalizeOps()
    yield "annotate patterns", relax.transform.AnnotateTIROpPattern()
    yield "fold legalized constants", relax.transform.FoldConstant()
    yield "fuse", relax.transform.FuseOps()
    yield "fuse kernels", relax.transform.FuseTIR()
    yield "drop dead code", relax.transform.DeadCodeElimination(list(inputs))
    yield "schedule", ApplySchedules(profile)
    yield "reshape in place", relax.transform.RewriteDataflowReshape()
    yield "leave dataflow", relax.transform.ToNonDataflow()
    yield "drop purity", relax.transform.RemovePurityChecking()
    yield "call kernels", relax.transform.CallTIRRewrite()
    yield "plan memory", relax.transform.StaticPlanBlockMemory()


def run(request: Request, dump: Path | None = None) -> Compilation:
    """Runs every phase over ``request.component``; with ``dump``, writes the module after each one there."""
    component = request.component
    function = component.module["main"]
    if request.cut is None:
        module = tvm.IRModule({request.entry: function.with_attr("global_symbol", request.entry)})
        inputs = {request.entry: component.input_count}
    else:
        module = component.module
        inputs = {"full": component.input_count, "cached": component.input_count + 1}
    compilation = Compilation(module, WeightStore.from_torch(component.weights), inputs)
    target = request.profile.tvm_target()
    with target:
        for number, (name, phase) in enumerate(phases(request, compilation)):
            start = time.perf_counter()
            compilation.module = phase(compilation.module)
            compilation.reports.append((name, len(compilation.module.functions), time.perf_counter() - start))
            if dump is not None:
                _dump(compilation.module, dump, component.name, number, name)
    return compilation


def _dump(module: tvm.IRModule, folder: Path, component: str, number: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component}-{number:02d}-{name.replace(' ', '-')}.py"
    path.write_text(module.script(), encoding="utf-8")
