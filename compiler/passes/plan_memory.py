"""Plans in which storage every tensor of a component lies, so that those of different moments share one.

Before::

    a = R.builtin.alloc_tensor(...); f(x, a); b = R.builtin.alloc_tensor(...); g(a, b)
    c = R.builtin.alloc_tensor(...); h(b, c); ...

After, as ``c`` is written when ``a`` is no longer read::

    s = R.memory.alloc_storage(...); t = R.memory.alloc_storage(...)
    a = R.memory.alloc_tensor(s, 0, ...); f(x, a); b = R.memory.alloc_tensor(t, 0, ...); g(a, b)
    c = R.memory.alloc_tensor(s, 0, ...); h(b, c); ...

A storage holds one tensor at a time and has the size of its largest. What a function returns is allocated for
itself: it outlives the call. Functions of a component run one after another and leave nothing in a storage,
so they share one list of storages: a call takes some of them, each of the size that the list has, and the
next call, of the same function or another, finds the same ones free. So do components that are on a device
together: a session gives the k-th largest storages of all of them the same memory. It tells storage from what
a function returns by the type int8, which nothing has that is returned.

Tensors are placed one after another, each into the smallest storage that holds it and is free as long as it
lives, or into a new one. Two orders are tried, as published by Pisarchyk and Lee (arXiv 2001.03288), and the
one that needs fewer bytes is taken: the largest tensors first; or the moments with the most bytes first, and
in each the largest tensors. TVM's own pass goes through the calls in order and cannot know what comes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import tvm
from tvm import relax

from ddimcache.compiler.memory_plan import Lifetime, lifetimes

STORAGE_DTYPE = "int8"
"""The element type of storage; `runtime/cc/allocator.h` knows it."""


@dataclass
class Storage:
    """Memory of ``bytes`` and the tensors that are in it, at different times."""

    bytes: int
    tensors: list[Lifetime] = field(default_factory=list)

    def is_free(self, tensor: Lifetime) -> bool:
        """Whether nothing else is in it while ``tensor`` lives."""
        return all(tensor.last < other.first or other.last < tensor.first for other in self.tensors)


def plan(tensors: Sequence[Lifetime], into: Sequence[Storage] = ()) -> list[Storage]:
    """The storages of the better of the two orders; ``into`` are there already, with what is in them."""
    return min((_place(order, into) for order in (_by_size(tensors), _by_moment(tensors))), key=_total)


def _total(storages: Sequence[Storage]) -> int:
    return sum(storage.bytes for storage in storages)


def plan_together(tensors: Mapping[str, Sequence[Lifetime]]) -> dict[str, list[Storage]]:
    """The storages of several functions, the same list for each, with its own tensors in them.

    Those that a function puts nothing into have no tensors there.
    """
    own = {tensor.variable: name for name, each in tensors.items() for tensor in each}
    original = {tensor.variable: tensor for each in tensors.values() for tensor in each}
    # As if one function ran, and then the next.
    moved: list[list[Lifetime]] = []
    for each in tensors.values():
        begin = max((tensor.last + 1 for earlier in moved for tensor in earlier), default=0)
        moved.append(
            [
                dataclasses.replace(tensor, first=tensor.first + begin, last=tensor.last + begin)
                for tensor in each
            ]
        )
    # All at once, or the function that needs most as if it were alone and the others into its storages.
    alone = sorted(moved, key=lambda each: -_total(plan(each)))
    one_by_one: list[Storage] = []
    for each in alone:
        one_by_one = plan(each, one_by_one)
    storages = min(plan([tensor for each in moved for tensor in each]), one_by_one, key=_total)
    return {
        name: [
            Storage(
                one.bytes, [original[each.variable] for each in one.tensors if own[each.variable] == name]
            )
            for one in storages
        ]
        for name in tensors
    }


def _by_size(tensors: Sequence[Lifetime]) -> list[Lifetime]:
    return sorted(tensors, key=lambda tensor: (-tensor.bytes, tensor.first))


def _by_moment(tensors: Sequence[Lifetime]) -> list[Lifetime]:
    moments = [
        [other for other in tensors if other.first <= tensor.first <= other.last] for tensor in tensors
    ]
    moments.sort(key=lambda alive: -sum(tensor.bytes for tensor in alive))
    return list(dict.fromkeys(tensor for alive in moments for tensor in _by_size(alive)))


def _place(order: Sequence[Lifetime], into: Sequence[Storage]) -> list[Storage]:
    storages = [Storage(one.bytes, list(one.tensors)) for one in into]
    for tensor in order:
        # One that has to grow costs what it grows by, a new one all of the tensor.
        free = [storage for storage in storages if storage.is_free(tensor)]
        best = min(free, key=lambda one: (max(tensor.bytes - one.bytes, 0), one.bytes), default=None)
        if best is None:
            storages.append(best := Storage(0))
        best.bytes = max(best.bytes, tensor.bytes)
        best.tensors.append(tensor)
    return storages


@tvm.transform.module_pass(opt_level=0, name="PlanMemory")
class PlanMemory:
    """See the module's text.

    After the pass, ``storages`` has the bytes of all of them, the largest first, and ``note`` says what every
    function puts into how many.
    """

    def __init__(self) -> None:
        self.storages: tuple[int, ...] = ()
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Plans all Relax functions of ``module`` together."""
        functions = dict(module.functions_items())
        names = {
            variable.name_hint: variable
            for variable, function in functions.items()
            if isinstance(function, relax.Function)
        }
        plans = plan_together({name: lifetimes(functions[names[name]]) for name in sorted(names)})
        notes = []
        for name, storages in plans.items():
            functions[names[name]] = _rewritten(functions[names[name]], storages)
            self.storages = tuple(sorted((one.bytes for one in storages), reverse=True))
            tensors = sum(len(one.tensors) for one in storages)
            notes.append(f"{name}: {tensors} tensors in {sum(bool(one.tensors) for one in storages)}")
        self.note = f"{len(self.storages)} storages of {sum(self.storages)} bytes; {', '.join(notes)}"
        return tvm.IRModule(functions, attrs=module.attrs, global_infos=module.global_infos)


def _rewritten(function: relax.Function, storages: Sequence[Storage]) -> relax.Function:
    storage_of = {tensor.variable: number for number, one in enumerate(storages) for tensor in one.tensors}
    made: dict[int, relax.Var] = {}
    builder = relax.BlockBuilder()  # what it normalises gets a type
    blocks = []
    for block in function.body.blocks:
        bindings = []
        for binding in block.bindings:
            number = storage_of.get(binding.var)
            if number is None:
                bindings.append(binding)
                continue
            shape, dtype, device, *scope = binding.value.args
            if number not in made:
                space = scope[0] if scope else relax.StringImm("global")
                size = relax.ShapeExpr([storages[number].bytes])
                storage = builder.normalize(relax.op.memory.alloc_storage(size, device, space, STORAGE_DTYPE))
                made[number] = relax.Var(f"storage{number}", storage.ty)
                bindings.append(relax.VarBinding(made[number], storage))
            tensor = relax.op.memory.alloc_tensor(made[number], 0, shape, dtype.value, device)
            tensor = builder.normalize(tensor)
            bindings.append(relax.VarBinding(binding.var, tensor))
        blocks.append(relax.BindingBlock(bindings))
    body = builder.normalize(relax.SeqExpr(blocks, function.body.body))
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)
