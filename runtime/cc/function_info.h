// TVM's description of one device function. The wheel ships the header that declares it, but not the headers
// which that one includes, so it is declared here again. tvm-ffi identifies a type by its key, and TVM hands
// these objects over by pointer: key, member order and member types have to stay those of TVM 0.27.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/object.h>
#include <tvm/ffi/string.h>

#include <cstdint>

namespace ddimcache::opencl {

enum class ArgumentTag : int32_t { kNone = 0, kTensorMap = 1 };

class FunctionInfoObj : public tvm::ffi::Object {
 public:
  tvm::ffi::String name;
  tvm::ffi::Array<DLDataType> argument_types;
  // How a launch is to be set up: "blockIdx.x", "threadIdx.y", … name the extents that follow the arguments.
  tvm::ffi::Array<tvm::ffi::String> launch_tags;
  tvm::ffi::Array<ArgumentTag> argument_tags;

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("runtime.FunctionInfo", FunctionInfoObj, tvm::ffi::Object);
};

class FunctionInfo : public tvm::ffi::ObjectRef {
 public:
  TVM_FFI_DEFINE_OBJECT_REF_METHODS_NULLABLE(FunctionInfo, tvm::ffi::ObjectRef, FunctionInfoObj);
};

using FunctionMap = tvm::ffi::Map<tvm::ffi::String, FunctionInfo>;

}  // namespace ddimcache::opencl
