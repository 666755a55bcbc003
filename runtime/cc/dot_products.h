// The sums of products of bytes that kernels call and OpenCL C has no name for on every device.
#pragma once

#include <string>

namespace ddimcache::opencl {

struct DeviceInfo;

// `source`, and before it `ddimcache_dot16` where it is called (src/ddimcache/kernels/matmul/dots.py):
//
//   int16 ddimcache_dot16(int16 sums, int16 weights, const char* four)
//
// adds to each sum the products of the four unsigned bytes of its weight, the lowest first, with the four
// signed bytes at `four`, which lies at a multiple of 4. The device's instruction is taken where there is
// one: VPDPBUSD of a CPU, or what OpenCL 3.0 calls integer dot products; elsewhere it is arithmetic, with the
// same result, and so with -DDDIMCACHE_PLAIN_DOTS among the build options. Line numbers stay.
std::string WithDotProducts(const DeviceInfo& device, const std::string& source);

}  // namespace ddimcache::opencl
