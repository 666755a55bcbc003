"""Work-groups become parallel iterations and work-items serial ones, for targets without them.

None of our kernels lets work-items talk to each other, so the order in which they run is free.
"""

from __future__ import annotations

import tvm_ffi
from tvm import tirx


def threads_to_loops(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """``function`` with ``blockIdx`` loops parallel and ``threadIdx`` loops serial."""

    def replace(loop: tirx.For) -> tirx.For:
        if loop.kind != tirx.ForKind.THREAD_BINDING:
            return loop
        tag = loop.thread_binding.thread_tag
        kind = tirx.ForKind.PARALLEL if tag.startswith("blockIdx") else tirx.ForKind.SERIAL
        return tirx.For(loop.loop_var, loop.min, loop.extent, kind, loop.body, None, loop.annotations)

    return function.with_body(tvm_ffi.structural_map(function.body, [(tirx.For, replace)], order="post"))
