"""How much memory the functions of a component need: as planned, and at the least that their order allows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from tvm import relax

from ddimcache.compiler.passes.simplify import op_name, static_shape
from ddimcache.manifest import ITEM_BYTES, LiveTensor, MemoryPeak


@dataclass(frozen=True)
class Plan:
    """Planned bytes of a component: of each storage, the largest first, and of what its calls return."""

    storages: tuple[int, ...] = ()
    outputs: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.storages) + self.outputs


def plan_in_turns(plans: Iterable[Plan]) -> Plan:
    """The plan of components that compute in turns and leave nothing in a storage: they share them.

    The k-th largest storage is as large as the largest k-th of any component, which is the least with which
    every component finds a storage for each of its own.
    """
    plans = list(plans)
    ranks = zip_longest(*(plan.storages for plan in plans), fillvalue=0)
    return Plan(tuple(map(max, ranks)), sum(plan.outputs for plan in plans))


def output_bytes(function: relax.Function) -> int:
    """Bytes of what one call of a planned function returns: all that it allocates beside storages."""
    return sum(
        _bytes(binding.var)
        for block in function.body.blocks
        for binding in block.bindings
        if op_name(binding.value) == "relax.builtin.alloc_tensor"
    )


def buffers(function: relax.Function) -> Iterator[int]:
    """Bytes of each buffer that one call of a planned function allocates: storage, and outputs."""
    for block in function.body.blocks:
        for binding in block.bindings:
            name = op_name(binding.value)
            if name == "relax.memory.alloc_storage":
                yield int(binding.value.args[0].values[0])
            elif name == "relax.builtin.alloc_tensor":
                yield _bytes(binding.var)


@dataclass(frozen=True)
class Lifetime:
    """A tensor of a function: the variable that allocates it, and the first and last binding that uses it."""

    variable: relax.Var
    bytes: int
    first: int
    last: int
    writer: str
    """The kernel that writes it first."""


def lifetimes(function: relax.Function) -> list[Lifetime]:
    """The tensors that ``function`` allocates and uses, in the order in which they are written.

    The function calls its kernels into tensors of their own, as before storage is planned. Outputs are left
    out: they outlive the call.
    """
    source: dict[relax.Var, relax.Expr] = {}
    allocated: set[relax.Var] = set()
    writer: dict[relax.Var, str] = {}
    first: dict[relax.Var, int] = {}
    last: dict[relax.Var, int] = {}

    def roots(expr: relax.Expr) -> set[relax.Var]:
        """The allocations behind a variable, a reshaped one or a tuple of them."""
        found = set()
        for variable in relax.analysis.free_vars(expr):
            found |= roots(source[variable]) if variable in source else {variable} & allocated
        return found

    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    for index, binding in enumerate(bindings):
        value = binding.value
        if op_name(value) == "relax.builtin.alloc_tensor":
            allocated.add(binding.var)
            continue
        if not isinstance(value, relax.Call) or op_name(value) == "relax.reshape":
            source[binding.var] = value
        for tensor in roots(value):
            if tensor not in first and isinstance(value, relax.Call):
                first[tensor] = index
                called = value.op
                writer[tensor] = called.name_hint if isinstance(called, relax.GlobalVar) else op_name(value)
            last[tensor] = index
    outputs = roots(function.body.body)
    return [
        Lifetime(tensor, _bytes(tensor), first[tensor], last[tensor], writer[tensor])
        for tensor in first
        if tensor not in outputs
    ]


def peak(name: str, function: relax.Function) -> MemoryPeak:
    """The moment of ``function`` at which most bytes are in use, and what is in use then.

    No plan needs less than this sum without another order of the calls or other kernels.
    """
    best: list[Lifetime] = []
    tensors = lifetimes(function)
    for index in sorted({tensor.first for tensor in tensors}):
        live = [tensor for tensor in tensors if tensor.first <= index <= tensor.last]
        if sum(tensor.bytes for tensor in live) > sum(tensor.bytes for tensor in best):
            best = live
    return MemoryPeak(
        name,
        sum(tensor.bytes for tensor in best),
        tuple(
            LiveTensor(tensor.writer, tuple(static_shape(tensor.variable) or ()), tensor.bytes)
            for tensor in best
        ),
    )


def _bytes(tensor: relax.Expr) -> int:
    return math.prod(static_shape(tensor) or [0]) * ITEM_BYTES[str(tensor.ty.dtype)]
