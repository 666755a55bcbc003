"""Reads the report of Mesa's compiler for Adreno (ir3) and counts what a kernel's machine code does."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

LOCAL_BYTES_LIMIT = 32768
INSTRUCTION_CACHE = 2032
"""Instructions that fit into the instruction cache; a hot loop beyond it crawls."""


@dataclass(frozen=True)
class InstructionMix:
    """Issue slots of a stretch of code by what they do. Repeats count, as each takes a slot."""

    issue: int
    """All slots, with the waiting that instructions ask for."""
    mad_f16: int
    mad_f32: int
    float_other: int
    """Additions, comparisons and the like, of either width."""
    special: int
    """Reciprocals, roots, exponentials, sines."""
    integer: int
    conversion: int
    move: int
    texture: int
    """Image reads."""
    global_loads: int
    global_load_bytes: int
    global_stores: int
    global_store_bytes: int
    local_accesses: int
    local_bytes: int
    spills: int
    """Accesses to private memory: registers that did not fit."""
    flow: int
    """Branches."""
    barriers: int
    waits: int
    """Slots in which nothing is issued because an earlier result is not ready."""
    syncs: int
    """Waits for memory or an image, of which some was read since the wait before."""
    narrow_loads: int
    """Loads from memory of less than 64 bits."""

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of either width."""
        return self.mad_f16 + self.mad_f32

    @property
    def multiply_add_share(self) -> float:
        """Share of issue slots that are multiply-adds, 0 to 1."""
        return self.multiply_adds / self.issue if self.issue else 0.0


@dataclass(frozen=True)
class LoopStatistics:
    """One loop, without the loops inside it."""

    depth: int
    """1 for an outermost loop."""
    innermost: bool
    mix: InstructionMix
    trips: int | None = None
    """How often it runs each time it is reached; None where the code does not say so."""
    runs: int | None = None
    """How often its body runs in a work-item: its trips times those of the loops around it."""


@dataclass(frozen=True)
class KernelStatistics:
    """What the compiler made of one kernel."""

    kernel: str
    instructions: int
    registers: int
    """Vec4 registers of 32 bits that a work-item takes (half registers count half)."""
    waves: int
    """Waves a shader processor can hold at once."""
    wave_size: int
    """Work-items a wave: 64 or 128."""
    local_bytes: int
    private_bytes: int
    max_work_group_size: int
    total: InstructionMix
    straight: InstructionMix
    """What is in no loop."""
    loops: tuple[LoopStatistics, ...]

    @property
    def occupancy(self) -> float:
        """Work-items in flight as a share of the most that a shader processor can hold, 0 to 1."""
        return self.waves * self.wave_size / 2048

    @property
    def spills(self) -> int:
        """Accesses to spilled registers in the whole kernel."""
        return self.total.spills

    @property
    def fits(self) -> bool:
        """Whether it can run on the GPU at all, and out of the instruction cache."""
        return (
            self.waves > 0
            and self.local_bytes <= LOCAL_BYTES_LIMIT
            and self.instructions <= INSTRUCTION_CACHE
        )

    @property
    def hot_loop(self) -> LoopStatistics | None:
        """The innermost loop with the most multiply-adds, or None where there is no loop."""
        inner = [loop for loop in self.loops if loop.innermost]
        return max(inner, key=lambda loop: loop.mix.multiply_adds * (loop.runs or 1), default=None)


@dataclass(frozen=True)
class _Instruction:
    name: str
    text: str
    repeats: int
    waits: int
    syncs: bool = False


_MARKER = re.compile(r"\((?:sy|ss|jp|ul|eq|sat|last|rpt\d|nop\d)\)\s*")
_FLOAT = re.compile(r"(add|mul|min|max|sel|cmps|absneg|floor|ceil|trunc|rndne|sign)\.f")
_KINDS = {
    "special": "rcp rsq log2 exp2 sin cos sqrt hrsq hlog2 hexp2",
    "texture": "isam isaml isamm sam samb saml samgq gather4r",
    "global_load": "ldg ldib ldgb",
    "global_store": "stg stib stgb",
    "local": "ldl ldlw stl stlw",
    "spill": "ldp stp",
    "conversion": "cov",
    "move": "mov mova mova1 movmsk movs swz gat sct alias",
    "flow": "br jump bany ball brao braa getone shps shpe end kill predt predf prede chmask ret",
    "barrier": "bar fence",
    "wait": "nop",
}
_KIND_OF = {name: kind for kind, names in _KINDS.items() for name in names.split()}
_ELEMENT_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


def _kind(instruction: _Instruction) -> str:
    if instruction.name in ("mad.f16", "mad.f32"):
        return instruction.name.replace(".", "_")
    if _FLOAT.match(instruction.name):
        return "float_other"
    return _KIND_OF.get(instruction.name.split(".")[0], "integer")


def _bytes(instruction: _Instruction) -> int:
    """Bytes that a load or store moves: element size in the name, count as the last operand."""
    count = re.search(r",\s*(\d+)\s*$", instruction.text)
    width = re.search(r"(8|16|32|64)$", instruction.name)
    return (int(count[1]) if count else 1) * (_ELEMENT_BYTES[width[1]] if width else 4)


def _mix(instructions: list[_Instruction]) -> InstructionMix:
    slots: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    issue = waits = syncs = narrow = 0
    asked = False
    for instruction in instructions:
        kind = _kind(instruction)
        slots[kind] += 1 + instruction.repeats
        issue += 1 + instruction.repeats + instruction.waits
        waits += instruction.waits
        # What was asked for together comes together: another wait for it costs nothing.
        if instruction.syncs and asked:
            syncs += 1
            asked = False
        asked |= kind in ("texture", "global_load", "spill")
        narrow += kind == "global_load" and _bytes(instruction) < 8
        if kind in ("global_load", "global_store", "local"):
            moved[kind] += _bytes(instruction)
    return InstructionMix(
        issue=issue,
        mad_f16=slots["mad_f16"],
        mad_f32=slots["mad_f32"],
        float_other=slots["float_other"],
        special=slots["special"],
        integer=slots["integer"],
        conversion=slots["conversion"],
        move=slots["move"],
        texture=slots["texture"],
        global_loads=slots["global_load"],
        global_load_bytes=moved["global_load"],
        global_stores=slots["global_store"],
        global_store_bytes=moved["global_store"],
        local_accesses=slots["local"],
        local_bytes=moved["local"],
        spills=slots["spill"],
        flow=slots["flow"],
        barriers=slots["barrier"],
        waits=waits + slots["wait"],
        syncs=syncs,
        narrow_loads=narrow,
    )


def _read_code(lines: list[str]) -> tuple[list[_Instruction], dict[str, int]]:
    """Instructions, and the position that each label stands at."""
    instructions: list[_Instruction] = []
    labels: dict[str, int] = {}
    for line in (raw.strip() for raw in lines):
        if label := re.fullmatch(r"(l\d+):", line):
            labels[label[1]] = len(instructions)
        elif line and line[0] not in ";@":
            repeats = re.search(r"\(rpt(\d)\)", line)
            waits = re.search(r"\(nop(\d)\)", line)
            text = _MARKER.sub("", line).strip()
            if text:
                instructions.append(
                    _Instruction(
                        text.split()[0],
                        text,
                        int(repeats[1]) if repeats else 0,
                        int(waits[1]) if waits else 0,
                        "(sy)" in line,
                    )
                )
    return instructions, labels


def _spans(instructions: list[_Instruction], labels: dict[str, int]) -> list[tuple[int, int]]:
    """First and last position of every loop: what lies between a label and the last jump back to it."""
    last_jump: dict[int, int] = {}
    for position, instruction in enumerate(instructions):
        if (target := re.search(r"#(l\d+)", instruction.text)) is None:
            continue
        start = labels.get(target[1], position + 1)
        if start <= position:
            last_jump[start] = max(position, last_jump.get(start, 0))
    return sorted(last_jump.items())


def _loops(
    instructions: list[_Instruction],
    labels: dict[str, int],
    spans: list[tuple[int, int]],
    constants: dict[str, int],
) -> tuple[LoopStatistics, ...]:
    loops: list[LoopStatistics] = []
    trips: dict[tuple[int, int], int | None] = {}
    for start, end in spans:
        inside = [span for span in spans if start < span[0] and span[1] <= end]
        around = [span for span in spans if span[0] < start and end <= span[1]]
        own = [
            instruction
            for position, instruction in enumerate(instructions)
            if start <= position <= end and not any(low <= position <= high for low, high in inside)
        ]
        left = {name for name, position in labels.items() if not start <= position <= end}
        trips[start, end] = _trips(own, instructions[:start], constants, left)
        known = [trips[span] for span in [*around, (start, end)]]
        runs = None if None in known else math.prod(count for count in known if count is not None)
        loops.append(LoopStatistics(len(around) + 1, not inside, _mix(own), trips[start, end], runs))
    return tuple(loops)


_REGISTER = r"\(?(?:last\)|r\))*(h?r\d+\.[xyzw])"
_EXIT = re.compile(rf"cmps\.[su]\.(?:ge|eq|gt|lt|ne|le) u?p0\.[xyzw], {_REGISTER}, (-?\d+|c\d+\.[xyzw])$")
_STEP = re.compile(rf"add\.[su] (h?r\d+\.[xyzw]), {_REGISTER}, (\d+|c\d+\.[xyzw])$")
_COPY = re.compile(rf"mov\.\w+ (h?r\d+\.[xyzw]), {_REGISTER}$")
_START = re.compile(r"mov\.[us]\d+[us]\d+ (h?r\d+\.[xyzw]), (-?\d+)$")


def _leaves(after: list[_Instruction], left: set[str]) -> bool:
    """Whether the first branch of ``after`` goes to one of the labels ``left``, those outside the loop.

    What is only carried out by some work-items is a branch without a label.
    """
    for instruction in after:
        if instruction.name in ("predt", "predf"):
            return False
        if (target := re.search(r"#(l\d+)", instruction.text)) is not None:
            return target[1] in left
    return False


def _trips(
    own: list[_Instruction], before: list[_Instruction], constants: dict[str, int], left: set[str]
) -> int | None:
    """How often a loop runs, if it counts to a number: what is compared, what is added, where it starts."""

    def number(text: str) -> int | None:
        return constants.get(text) if text.startswith("c") else int(text)

    for exit_at, instruction in enumerate(own):
        found = _EXIT.match(instruction.text)
        if found is None or (bound := number(found[2])) is None:
            continue
        if not _leaves(own[exit_at + 1 :], left):
            continue  # It decides about something in the loop.
        names = {found[1]}
        # What the counter is copied to on its way to the comparison, backwards.
        for earlier in reversed(own[:exit_at]):
            copied = _COPY.match(earlier.text)
            if copied and copied[1] in names:
                names.add(copied[2])
        for other in own:
            added = _STEP.match(other.text)
            if added is None or not names & {added[1], added[2]}:
                continue
            step = number(added[3])
            if not step:
                continue
            starts = (_START.match(earlier.text) for earlier in reversed(before))
            first = next((int(start[2]) for start in starts if start and start[1] in {*names, added[2]}), 0)
            return max(-(-(bound - first) // step), 1)
    return None


def _constants(lines: list[str]) -> dict[str, int]:
    """Numbers that the code reads from constant registers, as 32-bit signed."""
    values: dict[str, int] = {}
    for line in lines:
        if found := re.match(r"@const\(c(\d+)\.x\)\s+(.*)", line.strip()):
            for component, text in zip("xyzw", found[2].split(","), strict=False):
                value = int(text, 16)
                values[f"c{found[1]}.{component}"] = value - (1 << 32) if value >> 31 else value
    return values


def _figure(report: str, name: str) -> int:
    found = re.search(rf"(\d+) {re.escape(name)}(?=[, ]|$)", report)
    if found is None:
        raise ValueError(f"the compiler's report has no figure {name!r}: {report!r}")
    return int(found[1])


def parse_compiler_log(log: str) -> list[KernelStatistics]:
    """Statistics of every kernel in the output of ``compile_kernels``, in the order of its ``kernel`` lines.

    Raises
    ------
    ValueError
        A kernel's code or one of its figures is not in the log.
    """
    prefix = "MESA: info: "
    lines = [line.removeprefix(prefix) for line in log.splitlines()]
    code: dict[str, list[str]] = {}
    reports: dict[str, str] = {}
    name = ""
    position = 0
    while position < len(lines):
        line = lines[position]
        if found := re.match(r"\s*impl (?:__wrapped_)?(\S+) \{", line):
            name = found[1]
        if line.startswith("Native code"):
            body: list[str] = []
            while position + 1 < len(lines) and not lines[position + 1].startswith("; CL: outputs"):
                position += 1
                body.append(lines[position])
            report: list[str] = []
            while position + 1 < len(lines) and "preamble-instr" not in lines[position]:
                position += 1
                report.append(lines[position])
            # a kernel may be compiled more than once; the last is the one that would run
            code[name] = body
            reports[name] = " ".join(report)
        position += 1

    statistics = []
    for line in lines:
        if not (asked := re.match(r"kernel (\S+) work_group=(\d+) local=(\d+) private=(\d+)", line)):
            continue
        kernel = asked[1]
        if kernel not in code:
            raise ValueError(f"the compiler's log has no code of kernel {kernel!r}")
        instructions, labels = _read_code(code[kernel])
        spans = _spans(instructions, labels)
        straight = [
            instruction
            for position, instruction in enumerate(instructions)
            if not any(start <= position <= end for start, end in spans)
        ]
        report_text = reports[kernel]
        statistics.append(
            KernelStatistics(
                kernel=kernel,
                instructions=_figure(report_text, "instr"),
                registers=_figure(report_text, "full"),
                waves=_figure(report_text, "max_waves"),
                wave_size=128 if _figure(report_text, "double_threadsize") else 64,
                local_bytes=int(asked[3]),
                private_bytes=int(asked[4]),
                max_work_group_size=int(asked[2]),
                total=_mix(instructions),
                straight=_mix(straight),
                loops=_loops(instructions, labels, spans, _constants(code[kernel])),
            )
        )
    return statistics
