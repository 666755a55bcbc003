"""Checks that every pass leaves a well-formed module, while a test compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tvm
from tvm import relax


@tvm.instrument.pass_instrument
class _WellFormed:
    """Keeps the module that it checked last, because many a pass returns the one that it was given."""

    checked: tvm.IRModule | None = None

    def run_after_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if self.checked is not None and module.same_as(self.checked):
            return
        if any(isinstance(function, relax.Function) for _, function in module.functions_items()):
            relax.analysis.well_formed(module)
        self.checked = module


@contextmanager
def every_module_well_formed() -> Iterator[None]:
    """Within it, a pass that leaves an ill-formed module raises."""
    with tvm.transform.PassContext(instruments=[_WellFormed()]):
        yield
