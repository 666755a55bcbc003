// TVM's view of the OpenCL devices.
#pragma once

#include <tvm/runtime/device_api.h>

#include <string>

#include "memory.h"

namespace ddimcache::opencl {

class OpenClDeviceApi final : public tvm::runtime::DeviceAPI {
 public:
  void SetDevice(tvm::Device device) final;
  void GetAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, tvm::ffi::Any* result) final;
  void GetTargetProperty(tvm::Device device, const std::string& property, tvm::ffi::Any* result) final;

  size_t GetDataSize(const DLTensor& tensor, tvm::ffi::Optional<tvm::ffi::String> scope) final;

  void* AllocDataSpace(tvm::Device device, size_t bytes, size_t alignment, DLDataType type_hint) final;
  // Scopes other than "global" are images.
  void* AllocDataSpace(tvm::Device device, int dimensions, const int64_t* shape, DLDataType type,
                       tvm::ffi::Optional<tvm::ffi::String> scope) final;
  void FreeDataSpace(tvm::Device device, void* handle) final;

  void CopyDataFromTo(DLTensor* from, DLTensor* to, TVMStreamHandle stream) final;

  // One in-order queue a device is the only stream; TVM's stream argument is always null.
  void StreamSync(tvm::Device device, TVMStreamHandle stream) final;

  void* AllocWorkspace(tvm::Device device, size_t bytes, DLDataType type_hint) final;
  void FreeWorkspace(tvm::Device device, void* handle) final;

  // The one instance, never freed.
  static OpenClDeviceApi* Global();
};

}  // namespace ddimcache::opencl
