// The sums of products of bytes that kernels call and OpenCL C has no name for on every device.
#pragma once

#include <string>

namespace ddimcache::opencl {

struct DeviceInfo;

// `source`, and before it those of these functions that it calls (src/ddimcache/kernels/matmul/dots.py and
// attention/pairs.py):
//
//   int16 ddimcache_dot16(int16 sums, int16 weights, const char* four)
//
// adds to each sum the products of the four unsigned bytes of its weight, the lowest first, with the four
// signed bytes at `four`, which lies at a multiple of 4;
//
//   float16 ddimcache_pairs16(float16 sums, int16 pairs, int pair)
//
// adds to each sum the products of both bfloat16 of its pair, the lower half first, with those of `pair`.
// The device's instruction is taken where there is one: VPDPBUSD and VDPBF16PS of a CPU, or what OpenCL 3.0
// calls integer dot products; elsewhere, and with -DDDIMCACHE_PLAIN_DOTS among the build options, it is
// arithmetic. The former gives the same whole numbers; sums of bfloat16 differ by roundings, and numbers
// below 1.2e-38 are zeros to the instruction. Line numbers stay.
std::string WithDotProducts(const DeviceInfo& device, const std::string& source);

}  // namespace ddimcache::opencl
