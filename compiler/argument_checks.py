"""Leaves out the checks of arguments that a kernel would do at every launch, where its caller has done them.

TVM puts a test of each argument's type, device, shape and place in front of a kernel's launch. Functions of
Relax test what they are given and allocate the rest themselves, so kernels that nobody else calls would test
the same again, and most of a library's host code and of its compilation would be these tests.

``relax.build(module, tir_pipeline=PIPELINE)`` leaves them out once :func:`register` was called.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.tirx import compilation_pipeline

PIPELINE = "ddimcache-checked-by-callers"

CHECKED = "ddimcache.checked_by_callers"
"""Attribute of a kernel whose callers have checked its arguments."""


def register() -> None:
    """Make :data:`PIPELINE` known to TVM; again is no error."""
    compilation_pipeline.register_tir_pipeline(PIPELINE, _pipelines)


def _pipelines() -> tuple[Any, Any, Any]:
    lower, finalize_host, finalize_device = compilation_pipeline.get_tir_pipeline("s_tir")
    skip: Any = SkipChecks()

    def finalize() -> Any:
        return tvm.ir.transform.Sequential([skip, finalize_host()])

    return lower, finalize, finalize_device


@tvm.transform.module_pass(opt_level=0, name="SkipChecks")
class SkipChecks:
    """Takes the assertions out of every host function that has the attribute :data:`CHECKED`."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Leaves functions without the attribute as they are."""
        checked = {
            variable: function
            for variable, function in module.functions_items()
            if isinstance(function, tirx.PrimFunc) and CHECKED in function.attrs
        }
        if not checked:
            return module
        result = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
        result.update(tirx.transform.SkipAssert()(tvm.IRModule(checked)))
        return result
