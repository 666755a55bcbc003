"""The compiler's report read, its loops counted, a launch timed by the model: on a report of a few lines."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ddimcache.adreno.bars import broken, family_of
from ddimcache.adreno.isa import KernelStatistics, parse_compiler_log
from ddimcache.adreno.model import ASSUMPTIONS, kernel_time
from ddimcache.adreno.report import PICTURES, kernel_groups, picture_seconds, with_work_sizes
from ddimcache.launches import WorkSize

LOG = """
impl __wrapped_axpy {
MESA: info: Native code for unnamed CL shader
MESA: info: @const(c4.x)	0x00000050, 0x00000002, 0x00000000, 0xffffffff
MESA: info: mov.u32u32 r1.x, 0
MESA: info: l10:
MESA: info: mov.u32u32 r2.x, 4
MESA: info: l11:
MESA: info: isam.1d (f16)(xyzw)hr4.x, r1.z, s#0, t#0
MESA: info: (sy)(rpt3)mad.f16 hr0.x, hr4.x, (r)hr5.x, (r)hr0.x
MESA: info: add.u r2.x, r2.x, 1
MESA: info: mov.u32u32 r3.x, r2.x
MESA: info: (nop2) cmps.s.ge up0.x, r3.x, c4.x
MESA: info: br p0.x, #l16
MESA: info: jump #l11
MESA: info: l16:
MESA: info: add.u r1.x, r1.x, 2
MESA: info: cmps.s.ge p0.x, r1.x, 10
MESA: info: br p0.x, #l20
MESA: info: jump #l10
MESA: info: l20:
MESA: info: stg.u16 g[r0.x], hr0.x, 4
MESA: info: end
MESA: info: ; CL: outputs
MESA: info: ; 18 instr, 0 nops, 4 half, 3 full, 16 max_waves, 1 double_threadsize, 0 preamble-instr
kernel axpy work_group=1024 local=0 private=0
"""


def statistics() -> KernelStatistics:
    (kernel,) = parse_compiler_log(LOG)
    return kernel


def test_loops_count_to_what_they_are_compared_with() -> None:
    inner, outer = sorted(statistics().loops, key=lambda loop: -loop.depth)
    assert (inner.trips, outer.trips) == (76, 5)
    assert (inner.runs, outer.runs) == (380, 5)
    assert inner.innermost
    assert not outer.innermost


def test_slots_are_counted_by_kind() -> None:
    kernel = statistics()
    mix = kernel.hot_loop.mix  # type: ignore[union-attr]
    assert (mix.mad_f16, mix.texture, mix.syncs, mix.waits) == (4, 1, 1, 2)
    assert mix.issue == 1 + 4 + 1 + 1 + 3 + 2
    assert kernel.straight.global_store_bytes == 8


def test_a_loop_that_counts_to_something_else_is_not_guessed() -> None:
    (kernel,) = parse_compiler_log(LOG.replace("r3.x, c4.x", "r3.x, r9.x"))
    assert sorted((loop.trips or 0) for loop in kernel.loops) == [0, 5]


def test_a_comparison_that_does_not_leave_the_loop_does_not_count() -> None:
    compared = "MESA: info: (nop2) cmps.s.ge up0.x, r3.x, c4.x"
    skipped = "MESA: info: cmps.s.ge p0.x, r2.x, 3\nMESA: info: br p0.x, #l13\nMESA: info: l13:\n"
    (kernel,) = parse_compiler_log(LOG.replace(compared, skipped + compared))
    assert [loop.trips for loop in kernel.loops] == [loop.trips for loop in statistics().loops]


def test_a_comparison_that_decides_who_takes_part_does_not_count() -> None:
    added = "MESA: info: add.u r1.x, r1.x, 2"
    guarded = f"{added}\nMESA: info: cmps.s.lt p0.x, r1.x, 4\nMESA: info: predt\nMESA: info: prede"
    (kernel,) = parse_compiler_log(LOG.replace(added, guarded))
    assert [loop.trips for loop in kernel.loops] == [loop.trips for loop in statistics().loops]


def test_a_launch_takes_what_its_busiest_unit_needs() -> None:
    size = WorkSize((6, 1, 1), (128, 1, 1))
    time = kernel_time([(statistics(), size)], moved_bytes=0)
    assert time.limit == "waiting"
    assert time.units["texture"] == pytest.approx(380 * 128 / ASSUMPTIONS.texels / ASSUMPTIONS.clock)
    assert time.units["waiting"] > 380 * ASSUMPTIONS.memory_latency / ASSUMPTIONS.clock
    many = kernel_time([(statistics(), dataclasses.replace(size, groups=(600, 1, 1)))], moved_bytes=0)
    assert many.units["waiting"] == pytest.approx(time.units["waiting"] * 100 / 16)
    bound = kernel_time([(statistics(), size)], moved_bytes=10**9)
    assert bound.limit == "memory"
    assert bound.seconds == pytest.approx(10**9 / ASSUMPTIONS.bandwidth + ASSUMPTIONS.launch)


def test_demands() -> None:
    kernel = statistics()
    assert broken(kernel, "other") == []
    assert broken(kernel, "product") == ["multiply-adds 33%"]
    thin = dataclasses.replace(kernel, waves=6, private_bytes=16, instructions=2100, local_bytes=1 << 16)
    assert broken(thin, "product") == [
        "spills 16 B",
        "local memory 65536 B",
        "2100 instructions",
        "multiply-adds 33%",
        "waves 6 x 128",
    ]
    assert family_of("fused_attention2", 5) == "attention"
    assert family_of("matmul", 5) == "product"
    assert family_of("layer_norm", 0) == "other"


def test_every_function_of_a_source_gets_its_work_group() -> None:
    source = "__kernel void first(int a) {}\n__kernel void second() {}\n"
    sizes = [WorkSize((1, 1, 1), (64, 2, 1)), WorkSize((1, 1, 1), (8, 1, 1))]
    text = with_work_sizes(source, sizes)
    assert "__attribute__((reqd_work_group_size(64, 2, 1))) __kernel void first" in text
    assert "__attribute__((reqd_work_group_size(8, 1, 1))) __kernel void second" in text


def test_a_picture_is_its_functions() -> None:
    seconds = {
        "encode": 1.0,
        "full": 10.0,
        "cached": 2.0,
        "guide_and_step": 0.5,
        "next_step": 0.5,
        "decode": 3.0,
    }
    assert picture_seconds(seconds, 20, 1) == 2 + 2 * 20 * 10 + 20 + 3
    assert picture_seconds(seconds, 20, 5) == 2 + 2 * (4 * 10 + 16 * 2) + 20 + 3
    hoisted = {**seconds, "project_context": 0.25, "embed_time": 4.0}
    assert picture_seconds(hoisted, 65, 65) == 2 + 0.5 + 2 * 4 + 2 * (10 + 64 * 2) + 65 + 3
    in_one_call = {**seconds, "full_guided": 19.0, "cached_guided": 3.0, "guide_both_and_step": 0.25}
    assert picture_seconds(in_one_call, 20, 5) == 2 + 4 * 19 + 16 * 3 + 20 * 0.75 + 3


def test_kernels_are_counted_in_groups() -> None:
    def kernel(name: str, family: str, seconds: float, spills: int, **calls: int) -> dict[str, Any]:
        parts = [{"spills": spills}, {"spills": 0}]
        times = {"modelled_seconds": seconds, "calls": calls, "functions": parts}
        return {"name": name, "family": family, "breaks": ["spills"] if spills else [], **times}

    found = kernel_groups(
        [
            kernel("fused_conv2d_add", "product", 2.0, 8, full=3),
            kernel("fused_conv2d1_add", "product", 1.0, 0, full=1, cached=1),
            kernel("fused_resize_pad", "other", 4.0, 0, decode=2),
            kernel("fused_layer_norm", "other", 5.0, 0, full=1),
            kernel("attention3", "attention", 6.0, 0, full=1),
            kernel("matmul_geglu", "product", 7.0, 0, full=1),
        ],
        ["full", "cached", "decode"],
    )
    by_name = {group["group"]: group for group in found}
    assert set(by_name) == {"attention", "convolution", "geglu", "norms", "the rest"}
    convolutions = by_name["convolution"]
    assert (convolutions["kernels"], convolutions["broken"], convolutions["spilled"]) == (2, 1, 1)
    assert convolutions["modelled_seconds"] == {"full": 7.0, "cached": 1.0, "decode": 0.0}
    assert by_name["the rest"]["modelled_seconds"] == {"full": 0.0, "cached": 0.0, "decode": 8.0}


def test_pictures_stand_beside_what_is_published() -> None:
    pictures = {(picture.steps, picture.interval): picture.published for picture in PICTURES}
    assert pictures[20, 1] == 10.96
    assert pictures[50, 5] == 6.2
    assert (20, 5) in pictures
