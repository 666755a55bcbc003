#include "module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>

#include <utility>
#include <vector>

#include "source.h"

namespace ddimcache::opencl {

OpenClModule::OpenClModule(ModuleContent content) : content_(std::move(content)) {
  if (content_.format != "cl") {
    TVM_FFI_THROW(ValueError) << "OpenCL modules hold OpenCL C (format \"cl\"), not \"" << content_.format
                              << "\"";
  }
  std::vector<std::string> names;
  for (const auto& [name, info] : content_.functions) names.emplace_back(name);
  content_.source = WithoutDeclarations(content_.source, names);
  std::map<std::string, std::string> sources = SplitSource(content_.source, names);
  for (const auto& [key, info] : content_.functions) {
    const std::string name = key;
    kernels_[name] = std::make_unique<Kernel>(name, std::move(sources[name]), *info.get());
  }
}

tvm::ffi::Optional<tvm::ffi::Function> OpenClModule::GetFunction(const tvm::ffi::String& name) {
  // The function keeps the module alive, and with it the kernel.
  tvm::ffi::ObjectPtr<OpenClModule> self = tvm::ffi::GetObjectPtr<OpenClModule>(this);
  if (name == "ddimcache.describe_kernels") {
    return tvm::ffi::Function::FromTyped([self](int device_id) {
      Device& device = Device::At(device_id);
      std::string rows;
      for (auto& [kernel_name, kernel] : self->kernels_) {
        if (!rows.empty()) rows += ", ";
        rows += kernel->Describe(device);
      }
      return tvm::ffi::String("[" + rows + "]");
    });
  }
  const auto entry = kernels_.find(name);
  if (entry == kernels_.end()) return std::nullopt;
  Kernel* kernel = entry->second.get();
  return tvm::ffi::Function::FromPacked(
      [self, kernel](tvm::ffi::PackedArgs arguments, tvm::ffi::Any*) { kernel->Launch(arguments); });
}

tvm::ffi::String OpenClModule::InspectSource(const tvm::ffi::String& format) const {
  return format.empty() || format == "cl" ? tvm::ffi::String(content_.source) : tvm::ffi::String();
}

}  // namespace ddimcache::opencl
