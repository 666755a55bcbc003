"""Every pass in these tests is checked to leave a well-formed module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import tvm
from tvm import relax


@tvm.instrument.pass_instrument
class _WellFormed:
    def run_after_pass(self, module: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
        if any(isinstance(function, relax.Function) for _, function in module.functions_items()):
            relax.analysis.well_formed(module)


@pytest.fixture(autouse=True)
def well_formed() -> Iterator[None]:
    with tvm.transform.PassContext(instruments=[_WellFormed()]):
        yield
