"""Runs a Relax function on the CPU by TVM's own lowering, to compare a module before and after a pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax

from ddimcache.compiler.compress.weights import WeightStore
from ddimcache.schedules.threads_to_loops import threads_to_loops


def run_relax(
    module: tvm.IRModule, inputs: Sequence[np.ndarray], store: WeightStore, name: str = "main"
) -> list[np.ndarray]:
    """The outputs of ``name``; parameters behind ``inputs`` are weights of ``store``, by their names."""
    functions = dict(module.functions_items())
    for variable, function in functions.items():
        if isinstance(function, tvm.tirx.PrimFunc):
            functions[variable] = threads_to_loops(function)
    module = tvm.IRModule(functions)
    arrays = [*inputs, *(store.array(variable.name) for variable in module[name].params[len(inputs) :])]
    machine = relax.VirtualMachine(tvm.compile(module, tvm.target.Target("llvm")), tvm.cpu())
    result = machine[name](*(tvm.runtime.tensor(array) for array in arrays))
    return [output.numpy() for output in (result if hasattr(result, "__len__") else [result])]
