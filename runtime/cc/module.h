// An OpenCL module: a table of kernels and the source they come from.
#pragma once

#include <tvm/ffi/extra/module.h>

#include <map>
#include <memory>
#include <string>

#include "kernel.h"
#include "module_bytes.h"

namespace ddimcache::opencl {

class OpenClModule final : public tvm::ffi::ModuleObj {
 public:
  // Needs no device: a machine without one can build and export. Throws ValueError for what no device could
  // run: another format than "cl", or functions that OpenCL cannot express.
  explicit OpenClModule(ModuleContent content);

  const char* kind() const final { return "opencl"; }
  int GetPropertyMask() const final {
    return tvm::ffi::Module::kBinarySerializable | tvm::ffi::Module::kRunnable;
  }

  // Besides the kernels: "ddimcache.describe_kernels"(device_id) compiles all of them for a device and
  // returns a JSON list of {"kernel", "work_group_size", "local_bytes", "private_bytes"}.
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Bytes SaveToBytes() const final { return SerializeModule(content_); }
  tvm::ffi::String InspectSource(const tvm::ffi::String& format) const final;

 private:
  ModuleContent content_;
  std::map<std::string, std::unique_ptr<Kernel>> kernels_;
};

}  // namespace ddimcache::opencl
