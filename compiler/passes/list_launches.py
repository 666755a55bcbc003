"""Lists the launches of a component's functions, and finds the layer of the model that each came from.

Before (after ``plan memory``; a call writes into what was allocated for it)::

    weight = params[3]; out = R.memory.alloc_tensor(storage, ...); cls.fused_conv2d_add1(x, weight, out)

After: ``{"kernel": "fused_conv2d_add1", "layer": "conv_in", "macs": ..., "bytes_read": ..., ...}``.

The layer is read off the weights that a launch takes. A launch without weights is placed by its neighbours:
one in which tensors meet (attention, a residual sum) in the innermost module around them, and one that
prepares a single tensor (moments of a norm, a resized picture) where that goes first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import tvm
import tvm_ffi
from tvm import relax, tirx
from tvm.s_tir.analysis import estimate_tir_flops
from tvm.tirx.buffer import BufferType

from ddimcache.compiler.passes.simplify import op_name
from ddimcache.errors import CompileError
from ddimcache.kernels.tags import DECISIONS, SAMPLED, WORKLOAD
from ddimcache.launches import KernelWorkload, Launch, LaunchLists, WorkSize

_SAME_DATA = {"relax.reshape", "relax.memory.view", "relax.memory.ensure_zero_offset"}
_FRESH = {"relax.builtin.alloc_tensor", "relax.memory.alloc_tensor"}


@dataclass
class _Node:
    """A launch and what it is connected with: numbers of launches, indices of weights."""

    kernel: str
    inputs: list[relax.Expr]
    outputs: list[relax.Expr]
    weights: list[int] = field(default_factory=list)
    producers: list[int] = field(default_factory=list)
    consumers: list[int] = field(default_factory=list)
    gathers: bool = False
    """Whether several tensors that are no weights meet in it."""


def list_launches(
    module: tvm.IRModule,
    functions: Sequence[str],
    weight_paths: Sequence[str],
    macs: Callable[[tirx.PrimFunc], int],
    component: str,
) -> LaunchLists:
    """Returns the launches of ``functions``, Relax functions or kernels of their own.

    Parameters
    ----------
    module : the module after the last phase, its buffers planned.
    weight_paths : for every weight of the packed tuple its path in the model, ``conv_in.weight``.
    macs : multiply-accumulates of one launch of a kernel.
    component : the layer of what cannot be said to come from any one in it.
    """
    work = {
        variable.name_hint: (macs(function), int(estimate_tir_flops(function.body)))
        for variable, function in module.functions_items()
        if isinstance(function, tirx.PrimFunc)
    }
    sampled = {
        variable.name_hint: int(function.attrs[SAMPLED])
        for variable, function in module.functions_items()
        if function.attrs is not None and SAMPLED in function.attrs
    }
    lists: dict[str, tuple[Launch, ...]] = {}
    for name in functions:
        function = module[name]
        if isinstance(function, tirx.PrimFunc):
            lists[name] = (_kernel_alone(name, function, work[name], component),)
            continue
        nodes = _nodes(function, sampled)
        layers = _layers(nodes, weight_paths, component)
        lists[name] = tuple(
            _launch(node, work[node.kernel], layer or component)
            for node, layer in zip(nodes, layers, strict=True)
        )
    called = {launch.kernel for launches in lists.values() for launch in launches}
    sizes = {name: found for name in sorted(called) if (found := work_sizes(module[name]))}
    workloads = {name: own for name in sorted(called) if (own := _workload(module[name])) is not None}
    return LaunchLists(lists, sizes, workloads)


def _workload(kernel: tirx.PrimFunc) -> KernelWorkload | None:
    """What a kernel says of itself, where it can be tuned."""
    if WORKLOAD not in kernel.attrs:
        return None
    decisions = json.loads(str(kernel.attrs[DECISIONS])) if DECISIONS in kernel.attrs else {}
    return KernelWorkload(str(kernel.attrs[WORKLOAD]), decisions)


def work_sizes(kernel: tirx.PrimFunc) -> tuple[WorkSize, ...]:
    """Work-groups and work-items of each device function in ``kernel``: one nest of bound loops each."""
    sizes: list[WorkSize] = []

    def visit(statement: tirx.For) -> tvm_ffi.WalkResult | None:
        if statement.kind != tirx.ForKind.THREAD_BINDING:
            return None
        bound: dict[str, int] = {}

        def collect(loop: tirx.For) -> None:
            if loop.kind == tirx.ForKind.THREAD_BINDING:
                bound[loop.thread_binding.thread_tag] = int(loop.extent)

        tvm_ffi.structural_walk(statement, [(tirx.For, collect)])
        x, y, z = ((bound.get(f"blockIdx.{axis}", 1), bound.get(f"threadIdx.{axis}", 1)) for axis in "xyz")
        sizes.append(WorkSize((x[0], y[0], z[0]), (x[1], y[1], z[1])))
        return tvm_ffi.WalkResult.SKIP

    tvm_ffi.structural_walk(kernel.body, [(tirx.For, visit)], order="pre")
    return tuple(sizes)


def _launch(node: _Node, work: tuple[int, int], layer: str) -> Launch:
    first = node.outputs[0].ty
    return Launch(
        kernel=node.kernel,
        layer=layer,
        macs=work[0],
        # Kernels that are written by hand may hide operations from the estimate; their products are known.
        flops=max(work[1], 2 * work[0]),
        bytes_read=sum(map(_bytes, node.inputs)),
        bytes_written=sum(map(_bytes, node.outputs)),
        shape=tuple(int(extent) for extent in first.shape.values),
        dtype=str(first.dtype),
    )


def _kernel_alone(name: str, function: tirx.PrimFunc, work: tuple[int, int], layer: str) -> Launch:
    """The launch of a kernel that no Relax function calls; its last buffer is the output, as in TVM's."""
    buffers = [parameter.ty for parameter in function.params if isinstance(parameter.ty, BufferType)]
    sizes = [
        math.prod(int(extent) for extent in buffer.shape) * tvm.DataType(buffer.dtype).itemsize
        for buffer in buffers
    ]
    shape = tuple(int(extent) for extent in buffers[-1].shape)
    return Launch(name, layer, *work, sum(sizes[:-1]), sizes[-1], shape, str(buffers[-1].dtype))


def _bytes(tensor: relax.Expr) -> int:
    extents = [int(extent) for extent in tensor.ty.shape.values]
    return math.prod(extents) * tvm.DataType(tensor.ty.dtype).itemsize


def _nodes(function: relax.Function, sampled: Mapping[str, int]) -> list[_Node]:
    """The launches in order, connected by the tensors between them."""
    weights = function.params[-1]
    same: dict[relax.Var, relax.Expr] = {}
    index_of: dict[relax.Var, int] = {}
    made_by: dict[relax.Var, int] = {}
    fresh: set[relax.Var] = set()
    nodes: list[_Node] = []

    def root(expr: relax.Expr) -> relax.Expr:
        while isinstance(expr, relax.Var) and expr in same:
            expr = same[expr]
        return expr

    for block in function.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if isinstance(value, relax.Var):
                same[binding.var] = value
            elif op_name(value) in _SAME_DATA:
                same[binding.var] = value.args[0]
            elif op_name(value) in _FRESH:
                fresh.add(binding.var)
            elif isinstance(value, relax.TupleGetItem) and value.tuple_value.same_as(weights):
                index_of[binding.var] = int(value.index)
            elif isinstance(value, relax.Call) and isinstance(value.op, relax.GlobalVar):
                node = _Node(value.op.name_hint, [], [])
                tensors = set()
                for number, argument in enumerate(value.args):
                    if sampled.get(node.kernel) == number:
                        continue
                    source = root(argument)
                    if source in fresh:
                        fresh.remove(source)
                        made_by[source] = len(nodes)
                        node.outputs.append(argument)
                        continue
                    node.inputs.append(argument)
                    if source in index_of:
                        node.weights.append(index_of[source])
                    elif isinstance(source, relax.Var):
                        tensors.add(source)
                    if source in made_by:
                        node.producers.append(made_by[source])
                        nodes[made_by[source]].consumers.append(len(nodes))
                node.gathers = len(tensors) > 1
                if not node.outputs:
                    raise CompileError(f"a launch of {node.kernel} writes nothing that was allocated for it")
                nodes.append(node)
    return nodes


def _layers(nodes: Sequence[_Node], weight_paths: Sequence[str], component: str) -> list[str]:
    """The layer of every launch; empty where neither weights nor neighbours tell one."""
    own = [_around([weight_paths[index].rpartition(".")[0] for index in node.weights]) for node in nodes]
    # Weights of all over the network are the component's.
    own = [layer or component * bool(node.weights) for layer, node in zip(own, nodes, strict=True)]
    # Launches are listed in an order in which tensors are made before they are read, so that one pass carries
    # layers along. Where several tensors meet, what comes later says nothing about what came before.
    ahead = list(own)
    for number, node in reversed(list(enumerate(nodes))):
        if not own[number] and not node.gathers and node.consumers:
            ahead[number] = ahead[node.consumers[0]]
    behind = list(own)
    for number, node in enumerate(nodes):
        if own[number]:
            continue
        if node.gathers:
            behind[number] = _meeting_place(nodes, number, ahead, behind)
        elif node.producers:
            behind[number] = behind[node.producers[0]]
    layers = list(behind)
    for number, node in reversed(list(enumerate(nodes))):
        if not own[number] and not node.gathers and node.consumers:
            layers[number] = layers[node.consumers[0]] or behind[number]
            # What one launch made for a whole module (query, key and value at once) is the module's until a
            # layer inside takes it.
            around = own[node.producers[0]] if node.producers else ""
            if around and layers[number].startswith(f"{around}."):
                layers[number] = around
    return layers


def _meeting_place(nodes: Sequence[_Node], number: int, ahead: list[str], behind: list[str]) -> str:
    """The innermost module around the last tensor that a launch takes and what else led to it.

    Beside the other tensors these are their earlier readers: a residual sum belongs to the block whose first
    layer read the same tensor. Where all others are the function's inputs (the keys and values of a prompt),
    it is the module around that tensor and the launch's readers, and where there is none, around its readers.
    """
    node = nodes[number]
    near = []
    if node.producers:
        last = max(node.producers)
        for other in set(node.producers) - {last}:
            readers = [reader for reader in nodes[other].consumers if reader < number]
            near += [behind[other], *(ahead[reader] for reader in readers)]
        near = [_around([behind[last], layer]) for layer in near if layer and behind[last]]
    innermost = max(near, key=lambda layer: layer.count(".") + bool(layer), default="")
    around = [ahead[consumer] for consumer in node.consumers]
    if len(set(node.producers)) == 1:
        innermost = innermost or _around([behind[node.producers[0]], *around])
    return innermost or _around(around)


def _around(layers: Sequence[str]) -> str:
    """The innermost module around all of ``layers``; those that are not known do not count."""
    known = [layer.split(".") for layer in layers if layer]
    if not known:
        return ""
    common = []
    for parts in zip(*known, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def weight_paths(
    names: Sequence[str], paths: Mapping[str, str], merged: Mapping[str, Sequence[str]]
) -> list[str]:
    """For weights in the order of the tuple their paths in the model: ``p_conv_weight|10@scale`` is derived.

    ``paths`` is by the name that the importer gave. A weight that was made of several (``merged``) belongs
    to the innermost module around them.
    """
    result = []
    for name in names:
        source = name.partition("|")[0].partition("@")[0]
        members = [paths[member] for member in merged.get(source, [source])]
        result.append(members[0] if len(members) == 1 else f"{_around(members)}.weight".removeprefix("."))
    return result
