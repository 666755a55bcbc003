"""The lab compiles fp16 kernels for the Adreno 740, refuses wrong ones, and runs fp16 on llvmpipe."""

from __future__ import annotations

import pytest

from ddimcache.adreno import lab as adreno_lab

pytestmark = pytest.mark.lab

AXPY = """
__kernel void axpy(__global const half *restrict x, __global half *restrict y, int count) {
  half4 sum = 0;
  for (int i = 0; i < count; ++i) sum = mad((half4)2.0h, vload4(i, x), sum);
  vstore4(sum, get_global_id(0), y);
}
"""


def test_fp16_kernel_compiles_to_wide_loads_and_multiply_adds() -> None:
    (kernel,) = adreno_lab.compile_for_adreno(AXPY, (64, 1, 1))
    assert kernel.kernel == "axpy"
    assert kernel.fits
    assert kernel.spills == 0
    loop = kernel.hot_loop
    assert loop is not None
    assert loop.mix.mad_f16 == 4
    assert (loop.mix.global_loads, loop.mix.global_load_bytes) == (1, 8)


def test_without_the_header_a_vector_load_falls_apart() -> None:
    (kernel,) = adreno_lab.compile_for_adreno(
        "#pragma OPENCL EXTENSION cl_khr_fp16 : enable\n" + AXPY, (64, 1, 1), wide_loads=False
    )
    assert kernel.hot_loop is not None
    assert kernel.hot_loop.mix.global_loads == 4


def test_every_kernel_of_a_source_is_reported_once() -> None:
    source = AXPY + AXPY.replace("axpy", "again")
    assert sorted(kernel.kernel for kernel in adreno_lab.compile_for_adreno(source)) == ["again", "axpy"]


def test_a_large_accumulator_spills() -> None:
    source = """
    __kernel void spills(__global const float4 *x, __global float4 *y, int count) {
      float4 sum[48];
      for (int i = 0; i < 48; ++i) sum[i] = 0;
      for (int k = 0; k < count; ++k)
        for (int i = 0; i < 48; ++i) sum[i] = mad(x[k * 48 + i], x[k], sum[i]);
      for (int i = 0; i < 48; ++i) y[get_global_id(0) * 48 + i] = sum[i];
    }
    """
    (kernel,) = adreno_lab.compile_for_adreno(source, (64, 1, 1))
    assert kernel.spills > 0 or kernel.private_bytes > 0


def test_too_much_local_memory_does_not_fit() -> None:
    source = """
    __kernel void large(__global float *x) {
      __local float tile[12288];
      for (int i = get_local_id(0); i < 12288; i += 64) tile[i] = x[i];
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int i = get_local_id(0); i < 12288; i += 64) x[i] = tile[12287 - i];
    }
    """
    with pytest.raises(adreno_lab.LabError, match="impossible to have enough concurrent waves"):
        adreno_lab.compile_for_adreno(source, (64, 1, 1))


def test_wrong_source_gives_the_compilers_words() -> None:
    with pytest.raises(adreno_lab.LabError, match="undeclared identifier 'nowhere'"):
        adreno_lab.compile_for_adreno("__kernel void f(__global float *x) { x[0] = nowhere; }")


def test_llvmpipe_has_fp16_and_images() -> None:
    done = adreno_lab.run_on_llvmpipe(["clinfo", "--raw"])
    assert done.returncode == 0, done.stdout
    assert "llvmpipe" in done.stdout
    assert "cl_khr_fp16" in done.stdout


def test_a_failing_program_is_returned_with_its_output() -> None:
    done = adreno_lab.run_on_llvmpipe(["ls", "/nowhere"])
    assert done.returncode != 0
    assert "/nowhere" in done.stdout
