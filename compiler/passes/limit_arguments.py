"""Keeps kernels within the number of arguments that a device takes.

A join of more tensors than that is made of joins of fewer. What was fused into one group is taken apart again
where the group has too many arguments, each part with one result.

Before, for three arguments::

    y = R.concat((a, b, c), axis=1)
    z = fused_add_add(a, b, c)        # z = (a + b) + c

After::

    t = R.concat((a, b), axis=1); y = R.concat((t, c), axis=1)
    s = fused_add_add_part(a, b); z = fused_add_add_part1(s, c)

It runs before fusion, for joins, and after it, for groups: fusion may well put the parts of a join back
together. A single operator with too many arguments that is no join is left to ``LimitKernels``.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from ddimcache.compiler.passes.simplify import op_name
from ddimcache.compiler.target import DeviceProfile


@mutator
class _Splitter(PyExprMutator):
    def __init__(self, module: tvm.IRModule, most: int) -> None:
        super().__init__(module)
        self.module = module
        self.most = most
        self.seen = self.joins = self.groups = self.parts = 0

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        call = super().visit_call_(call)
        if op_name(call) == "relax.concat" and isinstance(call.args[0], relax.Tuple):
            self.seen += 1
            return self._join(call)
        if isinstance(call.op, relax.GlobalVar):
            group = self.module[call.op]
            if isinstance(group, relax.Function) and "Primitive" in group.attrs:
                self.seen += 1
                if len(group.params) + 1 > self.most and _can_be_split(group):
                    return self._split(call, group)
        return call

    def _join(self, call: relax.Call) -> relax.Expr:
        fields = list(call.args[0])
        if len(fields) + 1 <= self.most:
            return call
        self.joins += 1
        while len(fields) + 1 > self.most:
            fields = [
                part[0] if len(part) == 1 else self.builder_.emit(relax.op.concat(part, call.attrs.axis))
                for start in range(0, len(fields), self.most - 1)
                for part in [fields[start : start + self.most - 1]]
            ]
        return self.builder_.normalize(relax.op.concat(fields, call.attrs.axis))

    def _split(self, call: relax.Call, group: relax.Function) -> relax.Expr:
        """Calls of the group's parts, in place of ``call`` of the whole."""
        values: dict[relax.Var, relax.Expr] = dict(zip(group.params, call.args, strict=True))
        parts = _parts(group, self.most)
        self.groups += 1
        self.parts += len(parts)
        for part in parts:
            function, inputs = self._function(part)
            variable = self.builder_.add_func(function, f"{call.op.name_hint}_part")
            result = relax.Call(variable, [values[one] for one in inputs])
            if part is parts[-1]:
                break
            values[part[-1].var] = self.builder_.emit(result)
        return self.builder_.normalize(result)

    def _function(self, part: Sequence[relax.VarBinding]) -> tuple[relax.Function, list[relax.Var]]:
        """A group of the bindings ``part``, whose last one is its result, and what it is called with."""
        inputs = _inputs(part)
        new: dict[relax.Var, relax.Expr] = {one: relax.Var(one.name, one.ty) for one in inputs}
        builder = relax.BlockBuilder()
        with builder.function("part", list(new.values()), {"Primitive": True}, private=True):
            with builder.dataflow():
                for binding in part:
                    kernel, arguments = binding.value.args
                    moved = [new.get(one, one) for one in arguments]
                    emit = builder.emit_output if binding is part[-1] else builder.emit
                    new[binding.var] = emit(relax.call_tir(kernel, moved, binding.var.ty))
            builder.emit_func_output(new[part[-1].var])
        return builder.get()["part"], inputs


def _result(group: relax.Function) -> relax.Expr:
    result, aliases = group.body.body, {}
    for binding in _bindings(group):
        if isinstance(binding.value, relax.Var):
            aliases[binding.var] = binding.value
    while result in aliases:
        result = aliases[result]
    return result


def _bindings(group: relax.Function) -> list[relax.VarBinding]:
    return [binding for block in group.body.blocks for binding in block.bindings]


def _calls(group: relax.Function) -> list[relax.VarBinding]:
    return [binding for binding in _bindings(group) if not isinstance(binding.value, relax.Var)]


def _can_be_split(group: relax.Function) -> bool:
    """Whether it has one result, and several kernels of one result each over plain tensors."""
    calls = _calls(group)
    return (
        len(calls) > 1
        and isinstance(_result(group), relax.Var)
        and all(
            op_name(binding.value) == "relax.call_tir"
            and len(binding.value.args) == 2
            and isinstance(binding.var.ty, relax.TensorType)
            for binding in calls
        )
    )


def _inputs(part: Sequence[relax.VarBinding]) -> list[relax.Var]:
    """The variables that ``part`` reads and does not bind, each once."""
    own = {binding.var for binding in part}
    read = [one for binding in part for one in binding.value.args[1] if isinstance(one, relax.Var)]
    return [one for one in dict.fromkeys(read) if one not in own]


def _parts(group: relax.Function, most: int) -> list[list[relax.VarBinding]]:
    """The bindings of ``group`` in parts of one result and at most ``most`` arguments, if possible.

    From the last binding on, a producer joins the part of its readers while nobody else reads it and the part
    has room.
    """
    calls = _calls(group)
    readers: dict[relax.Var, list[int]] = {binding.var: [] for binding in calls}
    for number, binding in enumerate(calls):
        for one in binding.value.args[1]:
            if one in readers:
                readers[one].append(number)
    part_of: dict[int, int] = {}
    parts: dict[int, list[int]] = {}
    for number in reversed(range(len(calls))):
        wanted = {part_of[reader] for reader in readers[calls[number].var]}
        if len(wanted) == 1 and calls[number].var is not _result(group):
            (part,) = wanted
            grown = [number, *parts[part]]
            if len(_inputs([calls[one] for one in grown])) + 1 <= most:
                part_of[number], parts[part] = part, grown
                continue
        part_of[number], parts[number] = number, [number]
    # A part is called where its result was made: all that it reads is made before.
    return [[calls[one] for one in parts[part]] for part in sorted(parts)]


@tvm.transform.module_pass(opt_level=0, name="LimitArguments")
class LimitArguments:
    """See the module's text. After the pass, ``note`` says what was split and what had no need to be."""

    def __init__(self, profile: DeviceProfile) -> None:
        self.profile = profile
        self.note = ""

    def transform_module(self, module: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        """Splits in every Relax function of ``module`` that is no group itself."""
        most = self.profile.most_arguments
        splitter = _Splitter(module, most)
        for variable, function in module.functions_items():
            if isinstance(function, relax.Function) and "Primitive" not in function.attrs:
                splitter.builder_.update_func(variable, splitter.visit_expr(function))
        split = splitter.joins + splitter.groups
        self.note = f"{splitter.seen - split} of {splitter.seen} within {most} arguments"
        if splitter.joins:
            self.note += f", {splitter.joins} joins made of smaller ones"
        if splitter.groups:
            self.note += f", {splitter.groups} groups taken apart into {splitter.parts}"
        return splitter.builder_.get()
