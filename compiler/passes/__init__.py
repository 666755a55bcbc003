"""Relax passes, one a file; the order in which they run is in ``ddimcache.compiler.pipeline``."""

import tvm_ffi

from ddimcache import errors

# A pass runs behind TVM's C++; an error that it raises keeps its class on the way back only if registered.
for _kind in (errors.UsageError, errors.FrontendError, errors.CompileError):
    tvm_ffi.register_error(_kind.__name__, _kind)
