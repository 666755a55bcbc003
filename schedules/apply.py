"""Gives every kernel of a module its schedule."""

from __future__ import annotations

import tvm
from tvm import tirx

from ddimcache.compiler.target import Decisions, DeviceProfile, TileTable
from ddimcache.kernels.workload import NO_WEIGHTS, Workload, tagged
from ddimcache.schedules.blocked_products import schedule_blocked_product
from ddimcache.schedules.blocks import panel_of, workload_of
from ddimcache.schedules.dot_products import schedule_dot_product
from ddimcache.schedules.element_wise import schedule_element_wise
from ddimcache.schedules.narrow_convolutions import schedule_narrow_convolution
from ddimcache.schedules.pixel_products import schedule_pixel_product
from ddimcache.schedules.products import schedule_product
from ddimcache.schedules.spaces import tiles_for_panels
from ddimcache.schedules.threads_to_loops import threads_to_loops
from ddimcache.schedules.tiled_convolutions import schedule_tiled_input, schedule_tiled_product
from ddimcache.schedules.winograd import schedule_winograd

SCHEDULED = "tirx.is_scheduled"
"""Attribute of a kernel that came with its loops bound or got its schedule."""


@tvm.transform.module_pass(opt_level=0, name="ApplySchedules")
class ApplySchedules:
    """Schedules each kernel by the first rule that knows it; ``llvm`` gets loops in place of work-items."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Schedules every kernel of ``module`` that has no schedule yet."""
        scheduled = {}
        for variable, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc):
                if SCHEDULED not in function.attrs:
                    function = self._schedule(function)
                if self.profile.kind == "llvm":
                    function = threads_to_loops(function)
            scheduled[variable] = function
        return tvm.IRModule(scheduled, attrs=module.attrs, global_infos=module.global_infos)

    def _schedule(self, function: tirx.PrimFunc) -> tirx.PrimFunc:
        workload = workload_of(function)
        tiles, decisions = self._tiles(function, workload)
        result = (
            schedule_dot_product(function, tiles)
            or schedule_winograd(function, tiles)
            or schedule_tiled_product(function, tiles, self.profile)
            or schedule_tiled_input(function, tiles)
            or schedule_pixel_product(function, tiles, self.profile)
            or schedule_blocked_product(function, tiles)
            or schedule_narrow_convolution(function, tiles)
            or schedule_product(function, tiles)
            or schedule_element_wise(function, tiles)
        )
        result = result.with_attrs({**dict(function.attrs.items()), SCHEDULED: True})
        return result if workload is None else tagged(result, workload, decisions)

    def _tiles(
        self, function: tirx.PrimFunc, workload: Workload | None
    ) -> tuple[TileTable, Decisions | None]:
        """The tiles of a kernel, and what of them its tuning record decided."""
        tiles = self.profile.tiles
        if workload is None or not self.profile.tuned:
            return tiles, None
        decisions = self.profile.tuned.get(workload)
        width = None if workload.weights == NO_WEIGHTS else panel_of(function)
        if width is None:
            return self.profile.tiles_of(workload), decisions
        return tiles_for_panels(tiles, workload, decisions, width)
