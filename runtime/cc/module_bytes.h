// The serialised form of an OpenCL module, byte by byte as TVM's code generator writes it into a library:
//
//   string   format        ("cl")
//   u64      count, then count times: string name, function info
//   bytes    source
//
// with string and bytes as u64 length + content, a function info as string name, u64 count + (u8 code, u8
// bits, u16 lanes) a argument type, u64 count + string a launch tag, u64 count + i32 an argument tag;
// everything little-endian.
#pragma once

#include <tvm/ffi/string.h>

#include <string>

#include "function_info.h"

namespace ddimcache::opencl {

struct ModuleContent {
  std::string format;
  FunctionMap functions;
  std::string source;
};

tvm::ffi::Bytes SerializeModule(const ModuleContent& content);

// The bytes may come from anywhere: every length is checked against what is left before it is used. Throws
// ValueError that says at which byte and what is wrong.
ModuleContent ParseModule(const tvm::ffi::Bytes& bytes);

}  // namespace ddimcache::opencl
