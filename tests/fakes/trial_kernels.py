"""Libraries whose ``main`` copies its argument to its result, or does what candidates of a tuner may do."""

from pathlib import Path

import tvm
from tvm.script import tirx as T

LENGTH = 1024
"""Numbers of the argument and of the result, float32."""

# name -> a function of the C library with its argument, called first; how many numbers are copied; what is
# added to them
KINDS = {
    "good": ("abs", 0, LENGTH, 0.0),
    "wrong": ("abs", 0, LENGTH, 1.0),
    "silent": ("abs", 0, 0, 0.0),
    "aborts": ("abort", 0, LENGTH, 0.0),
    "segfaults": ("raise", 11, LENGTH, 0.0),
    "exits": ("exit", 0, LENGTH, 0.0),
    "hangs": ("sleep", 600, LENGTH, 0.0),
    "slow": ("usleep", 300_000, LENGTH, 0.0),
}


# A builder of candidates that takes a library of the folder by the decision about work-groups, whose argument
# is the right answer to the workload.
BUILDER = """
import json, pathlib, shutil, sys
import numpy as np
folder, asked, result = map(pathlib.Path, sys.argv[1:])
request = json.loads(asked.read_text())
kind = {2: "wrong", 4: "aborts", 16: "slow", 32: "hangs", 0: "refused"}.get(
    request["decisions"].get("blocks.groups"), "good")
if kind == "refused":
    result.write_text('{"status": "refused", "message": "no such tiles"}')
    sys.exit()
out = pathlib.Path(request["out"])
shutil.copy(folder / (kind + ".so"), out / "main.so")
right = np.load(request["inputs"])["expected"].astype("float32")
right.tofile(out / "argument0.bin")
(out / "shapes").write_text(f"float32 {right.size}\\nresult {right.size}")
result.write_text('{"status": "good"}')
"""


def write_library(kind, path: Path):
    """Write the library of one of ``KINDS`` for this machine."""
    name, number, length, more = KINDS[kind]

    @T.prim_func
    def main(source: T.Buffer((LENGTH,), "float32"), result: T.Buffer((LENGTH,), "float32")):
        T.evaluate(T.call_extern("int32", name, number))
        for i in range(length):
            result[i] = source[i] + T.float32(more)

    module = tvm.IRModule({"main": main.with_attr("global_symbol", "main")})
    tvm.compile(module, target="llvm").export_library(str(path))
