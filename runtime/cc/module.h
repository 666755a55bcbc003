// An OpenCL module: a table of kernels and the source they come from.
#pragma once

#include <tvm/ffi/extra/module.h>

#include <map>
#include <memory>
#include <mutex>
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

  // Besides the kernels:
  // "ddimcache.describe_kernels"(device_id) compiles all of them for a device and returns a JSON list of
  // {"kernel", "work_group_size", "local_bytes", "private_bytes"}.
  // "ddimcache.prepare"(device_id, threads, progress) compiles all of them, in so many threads (0: one a
  // processor); calls progress(done, all), unless it is null, on the calling thread; returns how many there
  // are.
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Bytes SaveToBytes() const final { return SerializeModule(content_); }
  tvm::ffi::String InspectSource(const tvm::ffi::String& format) const final;

 private:
  int64_t Prepare(int device_id, int64_t threads, const tvm::ffi::Optional<tvm::ffi::Function>& progress);
  // Names the kernels whose registers spill, once a module, where DDIMCACHE_REPORT_SPILLS=1 asks for it.
  void ReportSpills(Device& device);

  ModuleContent content_;
  std::once_flag spills_reported_;
  std::map<std::string, std::unique_ptr<Kernel>> kernels_;
};

}  // namespace ddimcache::opencl
