// Buffers that a kernel reads as pixels: OpenCL C that says so, made of what TVM's code generator writes.
#pragma once

#include <string>
#include <vector>

#include "opencl_types.h"

namespace ddimcache::opencl {

// TVM declares every tensor as a pointer. One that a kernel reads by `read_imageh(name, …)` or
// `read_imagef(name, …)` becomes an image over a buffer, `__read_only image1d_buffer_t name`, with four
// channels a pixel: of halves or floats as they are, of chars as fractions of 127 (CL_SNORM_INT8). The
// channel's type is written behind the name, as a comment; what is declared so already stays as it is.
std::string DeclarePixels(const std::string& source);

// For every parameter of `kernel` in `source` the type of its channels, or 0 where it is no such image. Empty
// where the kernel is not in the source.
std::vector<cl_uint> PixelParameters(const std::string& source, const std::string& kernel);

}  // namespace ddimcache::opencl
