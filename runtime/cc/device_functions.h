// What kernels call and OpenCL C has no name for on every device: sums of products, and powers of two, and
// lines of a cache before they are read.
#pragma once

#include <string>

namespace ddimcache::opencl {

struct DeviceInfo;

// `source`, and before it those of these functions that it calls (src/ddimcache/kernels/matmul/dots.py,
// attention/pairs.py and exponential.py):
//
//   int16 ddimcache_dot16(int16 sums, int16 weights, const char* four)
//
// adds to each sum the products of the four unsigned bytes of its weight, the lowest first, with the four
// signed bytes at `four`, which lies at a multiple of 4;
//
//   float16 ddimcache_pairs16(float16 sums, int16 pairs, int pair)
//
// adds to each sum the products of both bfloat16 of its pair, the lower half first, with those of `pair`;
//
//   float16 ddimcache_power16(float16 value)
//
// is 2 to each number, which is below 127; a missing number stays missing;
//
//   int ddimcache_prefetch(const __global void* at)
//
// has the line of a cache brought near that `at` is in, if the compiler can ask for that; 0.
//
// The device's instructions are taken where there are any: VPDPBUSD, VDPBF16PS, VREDUCEPS and VSCALEFPS of a
// CPU, or what OpenCL 3.0 calls integer dot products; elsewhere, and with -DDDIMCACHE_PLAIN_FUNCTIONS among
// the build options, it is arithmetic. Whole numbers are the same either way; sums of bfloat16 differ by
// roundings, and numbers below 1.2e-38 are zeros to the instruction; powers below 2^-126 are smaller or zero
// by the instructions, and 2^-126 by arithmetic. Line numbers stay.
std::string WithDeviceFunctions(const DeviceInfo& device, const std::string& source);

}  // namespace ddimcache::opencl
