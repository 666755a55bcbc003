// Modules for the native tests, made as a code generator makes them.
#pragma once

#include <string>
#include <vector>

#include "module.h"
#include "module_bytes.h"

namespace ddimcache::opencl::testing {

struct KernelText {
  std::string name;
  // One of "handle", "int32", "float32" an argument.
  std::vector<std::string> arguments;
  std::string source;
};

// All kernels have one block and one thread axis.
inline ModuleContent MakeContent(const std::vector<KernelText>& kernels) {
  ModuleContent content;
  content.format = "cl";
  for (const KernelText& kernel : kernels) {
    auto info = tvm::ffi::make_object<FunctionInfoObj>();
    info->name = kernel.name;
    for (const std::string& argument : kernel.arguments) {
      info->argument_types.push_back(argument == "handle"  ? DLDataType{kDLOpaqueHandle, 64, 1}
                                     : argument == "int32" ? DLDataType{kDLInt, 32, 1}
                                                           : DLDataType{kDLFloat, 32, 1});
    }
    info->launch_tags.push_back("blockIdx.x");
    info->launch_tags.push_back("threadIdx.x");
    content.functions.Set(kernel.name, FunctionInfo(std::move(info)));
    content.source += "// Function: " + kernel.name + "\n" + kernel.source + "\n";
  }
  return content;
}

inline tvm::ffi::Module MakeModule(const ModuleContent& content) {
  return tvm::ffi::Module(tvm::ffi::make_object<OpenClModule>(content));
}

inline KernelText Fill(const std::string& name) {
  return {name,
          {"handle", "int32"},
          "__kernel void " + name + "(__global int* out, int value) { out[get_global_id(0)] = value; }"};
}

}  // namespace ddimcache::opencl::testing
