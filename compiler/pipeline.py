"""The phases of a compilation, in order, as one list.

Each phase is a name and a pass; :func:`run` applies them, writes the module after each one into a folder
when it is asked to, and reports what changed.
"""

from __future__ import annotations

import fnmatch
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from ddimcache.compiler.accumulate import Accumulation
from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.compiler.frontend.importer import ImportedComponent
from ddimcache.compiler.memory_plan import peak
from ddimcache.compiler.options import LayerChoice, chosen_kind
from ddimcache.compiler.passes.add_before_reshape import AddBeforeReshape
from ddimcache.compiler.passes.annotate_patterns import AnnotatePatterns
from ddimcache.compiler.passes.bundle_weights import BundleWeights
from ddimcache.compiler.passes.count_work import count_work
from ddimcache.compiler.passes.fuse_attention import FuseAttention
from ddimcache.compiler.passes.fuse_geglu import FuseGeglu
from ddimcache.compiler.passes.fuse_group_norm import FuseGroupNorm
from ddimcache.compiler.passes.guide_in_one_call import GuideInOneCall
from ddimcache.compiler.passes.hoist_invariants import HoistInvariants, Invariant
from ddimcache.compiler.passes.limit_arguments import LimitArguments
from ddimcache.compiler.passes.limit_kernels import LimitKernels
from ddimcache.compiler.passes.limit_tensors import limit_tensors
from ddimcache.compiler.passes.list_launches import weight_paths
from ddimcache.compiler.passes.lower_attention import LowerAttention
from ddimcache.compiler.passes.lower_joins import LowerJoins
from ddimcache.compiler.passes.lower_lookups import LowerLookups
from ddimcache.compiler.passes.lower_norms import LowerNorms
from ddimcache.compiler.passes.lower_products import LowerProducts
from ddimcache.compiler.passes.lower_resizes import LowerResizes
from ddimcache.compiler.passes.lower_row_adds import LowerRowAdds
from ddimcache.compiler.passes.merge_projections import MergeProjections
from ddimcache.compiler.passes.pack_weights import Packing, PanelWidths
from ddimcache.compiler.passes.partition_at_cut import PartitionAtCut
from ddimcache.compiler.passes.plan_memory import PlanMemory
from ddimcache.compiler.passes.return_views import ReturnViews
from ddimcache.compiler.passes.serialize_conv2d import SerializeConv2d
from ddimcache.compiler.passes.simplify import Simplify, op_name, static_shape
from ddimcache.compiler.passes.split_at_cut import SplitAtCut
from ddimcache.compiler.passes.split_convolutions import SplitConvolutions
from ddimcache.compiler.passes.tile_rows import TileRows, Tiling
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.workload import Workload
from ddimcache.manifest import GUIDED, TIMES_AT_ONCE, MemoryPeak
from ddimcache.schedules.apply import ApplySchedules
from ddimcache.schedules.tiled_convolutions import cycles_saved, tiling_pays

CHANNELS_LAST = {
    "relax.nn.conv2d": ["NHWC", "OHWI", "NHWC"],
    "relax.image.resize2d": ["NHWC"],
}
"""Channels are the contiguous axis: convolutions and linear layers then share a layout, and a vector."""


CONTEXT = 2
"""Which parameter of the UNet is made of a prompt."""

HOISTED = (
    Invariant(1, "embed_time", "times", rows=TIMES_AT_ONCE),
    Invariant(CONTEXT, "project_context", "keys_values"),
    Invariant(3, "project_surroundings", "projected_surroundings"),
)
"""What is taken out of the UNet's steps; not every UNet takes surroundings."""

PHASE_COUNT = 38
"""Phases of a component that is no UNet."""
UNET_PHASE_COUNT = PHASE_COUNT + 3
"""Phases of a UNet: one more where it takes surroundings, and one for guidance in one call."""


@dataclass(frozen=True)
class Request:
    """What one component's compilation is asked for.

    ``entry`` names the component's function; ``cut`` is set for the UNet only, which becomes two functions.
    ``tiling`` says how large pictures are cut into bands of rows, if at all, and ``accumulate`` how layers
    are summed where not by rule. In functions that every step calls, ``activations`` says which layers round
    theirs to int8, and ``attention`` what that multiplies in. ``keep_fp16`` are patterns of layers that keep
    fp16 where others get int8.
    With ``guided`` the UNet gets two functions more, for both prompts of guidance at once.
    ``widths`` are those of weights that another size of the picture has packed already.
    """

    component: ImportedComponent
    profile: DeviceProfile
    weights: str
    entry: str
    cut: int | None = None
    tiling: Tiling | None = None
    accumulate: tuple[LayerChoice, ...] = ()
    activations: tuple[LayerChoice, ...] = ()
    attention: str = "float"
    keep_fp16: tuple[str, ...] = ()
    widths: PanelWidths = field(default_factory=dict)
    guided: bool = False


@dataclass(frozen=True)
class PhaseReport:
    """What a phase did: how many of its matches it rewrote, how long it took, and anything worth a word."""

    phase: str
    changes: int
    seconds: float
    note: str = ""


@dataclass
class Compilation:
    """A component on its way: the module, its weights, and what the phases found out."""

    module: tvm.IRModule
    store: WeightStore
    inputs: dict[str, int]
    weight_names: list[str] = field(default_factory=list)
    widths: PanelWidths = field(default_factory=dict)
    merged_weights: dict[str, tuple[str, ...]] = field(default_factory=dict)
    macs: dict[str, int] = field(default_factory=dict)
    macs_saved: dict[str, int] = field(default_factory=dict)
    """What a call of each function need not do because it was hoisted."""
    feature_shapes: tuple[tuple[int, ...], ...] = ()
    """What a full step leaves for the cached ones."""
    peaks: tuple[MemoryPeak, ...] = ()
    storages: tuple[int, ...] = ()
    """Bytes of the storages that all functions share, the largest first."""
    cycles_saved: float = 0
    """What convolutions in tiles save of a processor's time, by the schedules' terms."""
    reports: list[PhaseReport] = field(default_factory=list)


def _tiled(
    request: Request, compilation: Compilation, workload: Workload, sums: str | None, largest: int
) -> bool:
    """Whether a convolution is in tiles; what that saves is added up."""
    largest = max(largest, request.tiling.tile_bytes if request.tiling else 0)
    pays = tiling_pays(request.profile, workload, sums, largest)
    if pays:
        compilation.cycles_saved += max(cycles_saved(request.profile, workload, sums), 0)
    return pays


def phases(request: Request, compilation: Compilation) -> Iterator[tuple[str, Any]]:
    """The phases of a component's compilation, first to last."""
    profile, store, inputs = request.profile, compilation.store, compilation.inputs
    yield "simplify", Simplify()
    yield "fuse attention", FuseAttention()
    count = request.component.input_count
    invariants = [
        invariant for invariant in HOISTED if request.cut is not None and invariant.position < count
    ]
    split = SplitConvolutions(store, count, [invariant.position for invariant in invariants])
    if len(invariants) == len(HOISTED):
        yield "split convolutions", split
    members = dict(split.members)
    yield "channels last", relax.transform.ConvertLayout(CHANNELS_LAST)
    yield "simplify again", Simplify()
    yield "common subexpressions", relax.transform.EliminateCommonSubexpr()
    if request.cut is not None:
        partition: Any = PartitionAtCut(request.cut, count)
        whole = partition(compilation.module)
        hoist = HoistInvariants(count, invariants)
        yield "hoist invariants", hoist
        inputs.update(dict.fromkeys(hoist.made, 1))
        yield "partition at cut", partition
        parted = SplitAtCut(store, count, profile, request.weights)
        yield "split at cut", parted
        inputs["cached"] = count + parted.features
        features = compilation.module["cached"].params[count : inputs["cached"]]
        compilation.feature_shapes = tuple(tuple(static_shape(feature) or ()) for feature in features)
        compilation.macs_saved = {
            name: count_work(whole[name]) - count_work(compilation.module[name])
            for name in ("full", "cached")
        }
        members |= parted.members
        if request.guided:
            behind = range(count, inputs["cached"])
            yield "guide in one call", GuideInOneCall({"full": [CONTEXT], "cached": [CONTEXT, *behind]})
            inputs.update({name + GUIDED: inputs[name] for name in ("full", "cached")})
    for name in inputs:
        limit_tensors(compilation.module[name], request.component.name)
    compilation.macs = {name: count_work(compilation.module[name]) for name in inputs}

    compilation.merged_weights = members

    def layer_of(weight: str) -> str:
        # Of layers that are merged all are asked the same: the first speaks for them.
        source = weight.partition("|")[0].partition("@")[0]
        first = compilation.merged_weights.get(source, (source,))[0]
        return request.component.weight_paths[first].rpartition(".")[0]

    def kept(weight: str) -> bool:
        return any(fnmatch.fnmatchcase(layer_of(weight), each) for each in request.keep_fp16)

    once = {invariant.function for invariant in invariants}

    def rounds(weight: str, function: str) -> bool:
        return function not in once and chosen_kind(request.activations, layer_of(weight), "float") == "int8"

    def asked(weight: str, function: str) -> tuple[object, ...]:
        summed = chosen_kind(request.accumulate, layer_of(weight), "auto")
        return kept(weight), rounds(weight, function), summed

    merge = MergeProjections(store, inputs, asked)
    yield "merge projections", merge
    compilation.merged_weights = members | merge.members
    yield "lower attention", LowerAttention(profile, request.attention, once)
    yield "fold constants", relax.transform.FoldConstant()
    yield "tile rows", TileRows(request.tiling, profile)
    yield "lower norms", LowerNorms(profile)
    yield "lower row adds", LowerRowAdds()
    yield "serialize conv2d", SerializeConv2d(profile, request.weights, kept)
    yield "limit arguments of joins", LimitArguments(profile)
    yield "lower joins", LowerJoins(profile)
    yield "lower resizes", LowerResizes()
    yield "simplify lowered", Simplify()
    yield "add before reshape", AddBeforeReshape()

    sums = Accumulation(profile, request.accumulate, layer_of)
    packing = Packing(store, profile, request.weights, inputs, sums, compilation.widths, kept, rounds)
    yield "lower lookups", LowerLookups(store, request.weights, inputs, kept)
    yield "fuse geglu", FuseGeglu(packing)
    yield "lower products", LowerProducts(packing, partial(_tiled, request, compilation))
    yield "fuse group norm", FuseGroupNorm(profile)
    bundle = BundleWeights(store, inputs)
    yield "bundle weights", bundle
    compilation.weight_names = bundle.names
    yield "legalize", relax.transform.LegalizeOps()
    yield "annotate patterns", AnnotatePatterns()
    yield "fold legalized constants", relax.transform.FoldConstant()
    yield "fuse", relax.transform.FuseOps()
    yield "limit arguments", LimitArguments(profile)
    yield "fuse kernels", relax.transform.FuseTIR()
    yield "drop dead code", relax.transform.DeadCodeElimination(list(inputs))
    yield "schedule", ApplySchedules(profile)
    yield "reshape in place", relax.transform.RewriteDataflowReshape()
    yield "return views", ReturnViews()
    yield "drop kernels of reshapes", relax.transform.DeadCodeElimination(list(inputs))
    yield "leave dataflow", relax.transform.ToNonDataflow()
    yield "drop purity", relax.transform.RemovePurityChecking()
    yield "call kernels", relax.transform.CallTIRRewrite()
    paths = weight_paths(compilation.weight_names, request.component.weight_paths, compilation.merged_weights)
    yield "limit kernels", LimitKernels(profile, request.component.name, paths)
    compilation.peaks = tuple(peak(name, compilation.module[name]) for name in inputs)
    plan = PlanMemory()
    yield "plan memory", plan
    compilation.storages = plan.storages


def start(request: Request) -> Compilation:
    """The compilation of ``request`` before its first phase."""
    component = request.component
    if request.cut is None:
        function = component.module["main"].with_attr("global_symbol", request.entry)
        module = tvm.IRModule({request.entry: function})
        inputs = {request.entry: component.input_count}
    else:
        module = component.module
        inputs = {"full": component.input_count, "cached": component.input_count + 1}
    store = WeightStore.from_torch(component.weights)
    return Compilation(module, store, inputs, widths=dict(request.widths))


def run(
    request: Request, dump: Path | None = None, started: Callable[[str], object] = lambda phase: None
) -> Compilation:
    """Runs every phase over ``request.component``.

    With ``dump``, the module after each phase is written into that folder; ``started`` is told the name of
    each phase before it runs.
    """
    compilation = start(request)
    with request.profile.tvm_target():
        for number, (name, phase) in enumerate(phases(request, compilation)):
            started(name)
            before = operators(compilation.module)
            began = time.perf_counter()
            compilation.module = phase(compilation.module)
            seconds = time.perf_counter() - began
            after = operators(compilation.module)
            changes = sum(((before - after) + (after - before)).values())
            note = getattr(phase, "note", "") or _note(before, after)
            compilation.reports.append(PhaseReport(name, changes, seconds, note))
            if dump is not None:
                _dump(compilation.module, dump, request.component.name, number, name)
    return compilation


def operators(module: tvm.IRModule) -> Counter[str]:
    """How often each operator or kernel is called in the Relax functions of ``module``."""
    counts: Counter[str] = Counter()
    for _, function in module.functions_items():
        if not isinstance(function, relax.Function):
            continue
        for block in function.body.blocks:
            for binding in block.bindings:
                call = binding.value
                name = op_name(call)
                if name == "relax.call_tir":
                    # Kernels of one family differ by a number at the end of their names.
                    name = "kernel " + call.args[0].name_hint.rstrip("0123456789")
                if name:
                    counts[name.removeprefix("relax.")] += 1
    return counts


def _note(before: Counter[str], after: Counter[str]) -> str:
    """The operators that a phase took away and those that it made, the most frequent first."""
    gone, made = before - after, after - before
    parts = [
        ", ".join(f"{count} {name}" for name, count in side.most_common(4)) for side in (gone, made) if side
    ]
    return " -> ".join(parts)


def _dump(module: tvm.IRModule, folder: Path, component: str, number: int, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{component}-{number:02d}-{name.replace(' ', '-')}.py"
    path.write_text(module.script(), encoding="utf-8")
