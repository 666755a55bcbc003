"""Refuses kernels that break a limit of the device, before any code is made of them.

Every scheduled kernel is held against the profile: arguments and their bytes, work-items of a work-group,
local memory. Weights are held against the largest allocation; activations are planned later, and then tiled
or refused (``compiler/fit_memory.py``). Images have no line here: what is larger than the device's images is
read as a buffer (``kernels/pixels.py``).

Nothing is changed. A kernel over a limit raises :class:`CompileError`::

    unet: kernel fused_conv2d_add of layer conv_in has work-groups of 2048 work-items, adreno-740 takes 1024
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.s_tir import SBlock

from ddimcache.compiler.passes.list_launches import list_launches, work_sizes
from ddimcache.compiler.target import DeviceProfile
from ddimcache.errors import CompileError
from ddimcache.manifest import ITEM_BYTES

POINTER_BYTES = 8
"""What a tensor takes in a kernel's argument block, at most."""

_COMPACT = tvm.ir.transform.Sequential(
    [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
    ]
)


@dataclass(frozen=True)
class _Excess:
    """What of a kernel is above which limit."""

    what: str
    limit: str


@tvm.transform.module_pass(opt_level=0, name="LimitKernels")
class LimitKernels:
    """See the module's text.

    The functions of the module call their kernels into tensors of their own. ``component`` is where an error
    says that it is, ``weight_paths`` has for every weight of the packed tuple its path in the model. After
    the pass, ``note`` says how near to the limits the kernels come.
    """

    def __init__(self, profile: DeviceProfile, component: str, weight_paths: Sequence[str]) -> None:
        self.profile = profile
        self.component = component
        self.weight_paths = weight_paths
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Checks every kernel and every weight of ``module``; raises :class:`CompileError`."""
        count = most_arguments = most_items = most_local = 0
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function):
                self._check_weights(function)
                continue
            excess = self._excess(function)
            if excess is not None:
                self._refuse(module, variable.name_hint, excess)
            count += 1
            most_arguments = max(most_arguments, len(function.params))
            sizes = work_sizes(function)
            most_items = max(most_items, *(math.prod(size.items) for size in sizes), 0)
            most_local = max(most_local, local_bytes(function))
        self.note = (
            f"{count} kernels within the limits: "
            f"{most_arguments} of {self.profile.most_arguments} arguments, "
            f"{most_items} of {self.profile.max_threads} work-items, "
            f"{most_local} of {self.profile.max_local_memory} bytes of local memory"
        )
        return module

    def _excess(self, function: tirx.PrimFunc) -> _Excess | None:
        profile = self.profile
        arguments = len(function.params)
        if arguments > profile.max_kernel_arguments:
            return _Excess(f"{arguments} arguments", f"{profile.max_kernel_arguments}")
        if arguments * POINTER_BYTES > profile.max_argument_bytes:
            return _Excess(f"{arguments * POINTER_BYTES} bytes of arguments", f"{profile.max_argument_bytes}")
        for size in work_sizes(function):
            items = math.prod(size.items)
            if items > profile.max_threads:
                return _Excess(f"work-groups of {items} work-items", f"{profile.max_threads}")
            for axis, extent, most in zip("xyz", size.items, profile.max_work_items, strict=True):
                if extent > most:
                    return _Excess(f"work-groups of {extent} work-items along {axis}", f"{most}")
        local = local_bytes(function)
        if local > profile.max_local_memory:
            return _Excess(f"{local} bytes of local memory", f"{profile.max_local_memory}")
        return None

    def _check_weights(self, function: relax.Function) -> None:
        last = function.params[-1].ty if function.params else None
        tensors = last.fields if isinstance(last, relax.TupleType) else []
        for path, tensor in zip(self.weight_paths, tensors, strict=False):
            sides = [int(side) for side in tensor.shape.values]
            needed = math.prod(sides) * ITEM_BYTES[str(tensor.dtype)]
            if needed > self.profile.max_allocation:
                remedy = "take another --target, or a smaller model"
                if tensor.dtype != "int8":
                    remedy = "take int8 or fp16 as --weights"
                raise CompileError(
                    f"weight `{path}` of {'x'.join(map(str, sides))} in {tensor.dtype} has {needed} bytes, "
                    f"{self.profile.name} allocates at most {self.profile.max_allocation}",
                    where=self.component,
                    remedy=remedy,
                )

    def _refuse(self, module: tvm.IRModule, kernel: str, excess: _Excess) -> None:
        raise CompileError(
            f"kernel {kernel} of layer {self._layer(module, kernel)} has {excess.what}, {self.profile.name} "
            f"takes {excess.limit}",
            where=self.component,
            remedy="take another --target, or `--tune-log none` where tuning records decided its tiles",
        )

    def _layer(self, module: tvm.IRModule, kernel: str) -> str:
        """The layer that first launches ``kernel``."""
        functions = [
            variable.name_hint
            for variable, function in module.functions_items()
            if isinstance(function, relax.Function)
        ]
        lists = list_launches(module, functions, self.weight_paths, lambda _: 0, self.component)
        launches = [launch for own in lists.functions.values() for launch in own]
        return next((launch.layer for launch in launches if launch.kernel == kernel), self.component)


def local_bytes(function: tirx.PrimFunc) -> int:
    """Bytes of memory that the work-items of a work-group share, in the kernel's largest nest of loops."""
    shared: list[tirx.Buffer] = []

    def visit(block: SBlock) -> None:
        shared.extend(buffer for buffer in block.alloc_buffers if buffer.scope().startswith("shared"))

    def collect(function: tirx.PrimFunc) -> list[tirx.Buffer]:
        shared.clear()
        tvm_ffi.structural_walk(function.body, [(SBlock, visit)], order="post")
        return list(shared)

    if not collect(function):
        return 0
    # What a schedule allocates is the whole tensor until its use is known.
    compact = _COMPACT(tvm.IRModule({"main": function}))["main"]
    return sum(
        math.prod(int(side) for side in buffer.shape) * tvm.DataType(buffer.dtype).itemsize
        for buffer in collect(compact)
    )
