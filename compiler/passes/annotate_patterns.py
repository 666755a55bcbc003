"""Says of every kernel how it may be fused, by TVM's own analysis and by what the kernel says of itself.

TVM keeps an ``op_pattern`` that a kernel brings along, unless it is 0, which is both "element-wise" and
"unknown". A kernel that is element-wise though TVM cannot see it (it reads a row at an offset) carries the
attribute ``ELEMENT_WISE`` instead.

Before: ``T.func_attr({"ddimcache.element_wise": True})``; after: ``T.func_attr({"op_pattern": 0})``.
"""

from __future__ import annotations

import tvm
from tvm import relax, tirx

from ddimcache.kernels.tags import ELEMENT_WISE


@tvm.transform.module_pass(opt_level=0, name="AnnotatePatterns")
class AnnotatePatterns:
    """See the module's text."""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Annotates every kernel of ``module``."""
        module = relax.transform.AnnotateTIROpPattern()(module)
        functions = dict(module.functions_items())
        for variable, function in module.functions_items():
            if isinstance(function, tirx.PrimFunc) and ELEMENT_WISE in function.attrs:
                functions[variable] = function.without_attr(ELEMENT_WISE).with_attr("op_pattern", 0)
        return tvm.IRModule(functions, attrs=module.attrs)
