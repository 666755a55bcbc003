// Arguments of kernels: how a value of a TVM call becomes the bytes that OpenCL takes.
#pragma once

#include <tvm/ffi/c_api.h>
#include <tvm/ffi/dtype.h>

#include <cstdint>
#include <string>
#include <vector>

#include "device.h"

namespace ddimcache::opencl {

// How one value of a TVM call is passed to OpenCL.
// Pixels are a buffer that the kernel reads as an image (pixel_source.h).
enum class ArgumentKind { kBuffer, kPixels, kInteger, kHalf, kFloat, kDouble };

struct Argument {
  ArgumentKind kind;
  uint32_t bytes;
  // Of pixels.
  cl_uint channel_type = 0;

  bool is_memory() const { return kind == ArgumentKind::kBuffer || kind == ArgumentKind::kPixels; }
};

// What all launches of a kernel share.
struct KernelSignature {
  std::string name;
  std::vector<Argument> arguments;
};

// The bytes of one argument, from their start.
union EncodedArgument {
  cl_mem memory;
  uint8_t u8;
  uint16_t u16;
  uint32_t u32;
  uint64_t u64;
  float f32;
  double f64;
};

// Throws ValueError, naming function and argument, for a type that no OpenCL kernel can take.
Argument ParseArgument(const std::string& function, size_t index, DLDataType type);

// The buffer behind the value of an argument that is memory, or null where there is none.
cl_mem BufferOf(const KernelSignature& signature, const TVMFFIAny& value);

// Throws ValueError for a buffer that is not one, or lives on another device.
EncodedArgument EncodeArgument(const Device& device, const KernelSignature& signature, size_t index,
                               const TVMFFIAny& value);

}  // namespace ddimcache::opencl
