"""From a scheduled module to a shared library, and what can be read off it on the way."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir import SBlock

from ddimcache.compiler import argument_checks
from ddimcache.compiler.linker import find_linker
from ddimcache.compiler.passes.lower_storages import LowerStorages
from ddimcache.compiler.target import DeviceProfile
from ddimcache.kernels.tags import FAMILY, WORK
from ddimcache.manifest import KernelSpec

_DEVICE_FUNCTION = re.compile(r"_kernel(_\d+)?$")
_PROTOTYPE = re.compile(r"^__kernel void \w+\([^{;]*\);\n", re.MULTILINE)


@dataclass(frozen=True)
class LibraryFacts:
    """What a component's library holds: kernels with their launches, and their sources."""

    kernels: tuple[KernelSpec, ...]
    sources: dict[str, str]


def build_library(
    module: tvm.IRModule, profile: DeviceProfile, host: str, functions: list[str], path: Path
) -> LibraryFacts:
    """Builds ``module`` for ``profile`` and ``host`` and writes the shared library ``path``.

    ``functions`` names the Relax functions. Raises :class:`CompileError` when no linker is there.
    """
    linker = find_linker(host)
    kernels = _kernels(module, functions)
    module = _checked_by_callers(module, kernels)
    argument_checks.register()
    target = profile.tvm_target(host)
    lower_storages: Any = LowerStorages()
    with target, tvm.transform.PassContext(opt_level=3):
        for phase in (
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            lower_storages,
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ):
            module = phase(module)
        executable = relax.build(
            module, target=target, relax_pipeline=None, tir_pipeline=argument_checks.PIPELINE
        )
    executable.export_library(str(path), fcompile=linker.compile_function())
    return LibraryFacts(kernels, _sources(executable.mod))


def _launches(function: relax.Function) -> dict[str, int]:
    launches: dict[str, int] = {}
    for block in function.body.blocks:
        for binding in block.bindings:
            call = binding.value
            if isinstance(call, relax.Call) and isinstance(call.op, relax.GlobalVar):
                launches[call.op.name_hint] = launches.get(call.op.name_hint, 0) + 1
    return launches


def _kernels(module: tvm.IRModule, functions: list[str]) -> tuple[KernelSpec, ...]:
    calls = {name: _launches(module[name]) for name in functions}
    kernels = []
    for variable, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            name = variable.name_hint
            made = {entry: counts[name] for entry, counts in calls.items() if name in counts}
            kernels.append(KernelSpec(name=name, calls=made, macs=kernel_macs(function)))
    return tuple(sorted(kernels, key=lambda kernel: kernel.name))


def _checked_by_callers(module: tvm.IRModule, kernels: tuple[KernelSpec, ...]) -> tvm.IRModule:
    """``module`` with a mark at the kernels that its functions call; others are called from outside."""
    called = {kernel.name for kernel in kernels if kernel.calls}
    functions = {
        variable: function.with_attr(argument_checks.CHECKED, True)
        if variable.name_hint in called
        else function
        for variable, function in module.functions_items()
    }
    return tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def kernel_macs(function: tirx.PrimFunc) -> int:
    """Multiply-accumulates of one launch, padding of panels included."""
    if WORK in function.attrs:
        return int(function.attrs[WORK])
    found = [0]

    def visit(block: Any) -> None:
        if FAMILY in block.annotations:
            extents = [int(variable.dom.extent) for variable in block.iter_vars]
            reduces = any(variable.iter_type == tirx.IterVar.CommReduce for variable in block.iter_vars)
            found[0] = max(found[0], math.prod(extents) if reduces else 0)

    tvm_ffi.structural_walk(function.body, [(SBlock, visit)], order="post")
    return found[0]


def _sources(module: Any) -> dict[str, str]:
    """The device sources inside a built module, by kernel."""
    sources: dict[str, str] = {}
    for imported in module.imports:
        if imported.kind == "opencl":
            for part in imported.inspect_source().split("// Function: ")[1:]:
                name, _, text = part.partition("\n")
                # Device functions are named after their kernel with this ending, and counted if it has many.
                kernel = _DEVICE_FUNCTION.sub("", name.strip())
                # The code generator puts a prototype of every kernel of the module before each one.
                source = _PROTOTYPE.sub("", text).strip() + "\n"
                sources[kernel] = sources.get(kernel, "") + source
        sources.update(_sources(imported))
    return sources
