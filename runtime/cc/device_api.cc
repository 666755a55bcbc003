#include "device_api.h"

#include <tvm/ffi/container/tensor.h>

#include <algorithm>
#include <string>

#include "copy.h"

namespace ddimcache::opencl {

using tvm::runtime::DeviceAttrKind;

namespace {

// Kernels ask for scratch of slightly different sizes; whole pages let them share.
constexpr size_t kWorkspaceGranularity = 4096;

}  // namespace

OpenClDeviceApi* OpenClDeviceApi::Global() {
  static auto* const api = new OpenClDeviceApi();
  return api;
}

void OpenClDeviceApi::SetDevice(tvm::Device device) {
  Device::Current() = device.device_id;
}

void OpenClDeviceApi::GetAttr(tvm::Device device, DeviceAttrKind kind, tvm::ffi::Any* result) {
  if (kind == tvm::runtime::kExist) {
    const auto& devices = Device::All();
    *result =
        static_cast<int>(device.device_id >= 0 && static_cast<size_t>(device.device_id) < devices.size());
    return;
  }
  const DeviceInfo& info = Device::At(device.device_id).info;
  switch (kind) {
    case tvm::runtime::kExist:
      break;
    case tvm::runtime::kMaxThreadsPerBlock:
      *result = static_cast<int64_t>(info.max_work_group_size);
      break;
    case tvm::runtime::kWarpSize:
      // Code generated for this target never relies on lanes moving together.
      *result = 1;
      break;
    case tvm::runtime::kMaxSharedMemoryPerBlock:
      *result = static_cast<int64_t>(info.local_mem_bytes);
      break;
    case tvm::runtime::kComputeVersion: {
      // "OpenCL 3.0 vendor text" to "3.0"
      const size_t begin = info.version.find(' ') + 1;
      *result = info.version.substr(begin, info.version.find(' ', begin) - begin);
      break;
    }
    case tvm::runtime::kDeviceName:
      *result = info.name;
      break;
    case tvm::runtime::kMaxClockRate:
      // kHz, as for other devices of TVM
      *result = static_cast<int64_t>(info.max_clock_mhz * 1000);
      break;
    case tvm::runtime::kMultiProcessorCount:
      *result = static_cast<int64_t>(info.compute_units);
      break;
    case tvm::runtime::kMaxThreadDimensions:
      *result = "[" + std::to_string(info.max_work_item_sizes[0]) + ", " +
                std::to_string(info.max_work_item_sizes[1]) + ", " +
                std::to_string(info.max_work_item_sizes[2]) + "]";
      break;
    case tvm::runtime::kApiVersion:
      *result = 120;
      break;
    case tvm::runtime::kDriverVersion:
      *result = info.driver_version;
      break;
    case tvm::runtime::kL2CacheSizeBytes:
      *result = static_cast<int64_t>(info.global_cache_bytes);
      break;
    case tvm::runtime::kTotalGlobalMemory:
      *result = static_cast<int64_t>(info.global_mem_bytes);
      break;
    case tvm::runtime::kAvailableGlobalMemory: {
      // OpenCL cannot say what others use; this is what our own buffers leave.
      const MemoryUse use = Device::At(device.device_id).memory.Use();
      const uint64_t all =
          use.budget != 0 ? std::min(use.budget, info.global_mem_bytes) : info.global_mem_bytes;
      *result = static_cast<int64_t>(use.current < all ? all - use.current : 0);
      break;
    }
    case tvm::runtime::kImagePitchAlignment:
      *result = static_cast<int64_t>(info.image_pitch_alignment_pixels);
      break;
    case tvm::runtime::kMaxRegistersPerBlock:
    case tvm::runtime::kGcnArch:
      // OpenCL has no such question; the result stays None.
      break;
  }
}

void OpenClDeviceApi::GetTargetProperty(tvm::Device device, const std::string& property,
                                        tvm::ffi::Any* result) {
  const DeviceInfo& info = Device::At(device.device_id).info;
  if (property == "max_num_threads" || property == "max_threads_per_block") {
    *result = static_cast<int64_t>(info.max_work_group_size);
  } else if (property == "max_shared_memory_per_block") {
    *result = static_cast<int64_t>(info.local_mem_bytes);
  } else if (property == "max_function_args") {
    *result = static_cast<int64_t>(info.max_kernel_argument_bytes / sizeof(void*));
  } else if (property == "image_base_address_alignment") {
    *result = static_cast<int64_t>(info.image_pitch_alignment_pixels);
  } else if (property == "texture_spatial_limit") {
    *result = static_cast<int64_t>(std::min(info.image2d_max_width, info.image2d_max_height));
  } else if (property == "texture_depth_limit") {
    *result = static_cast<int64_t>(info.image_max_array_size);
  }
}

void* OpenClDeviceApi::AllocDataSpace(tvm::Device device, size_t bytes, size_t alignment, DLDataType) {
  Device& target = Device::At(device.device_id);
  // Buffers start at the device's base address alignment, 128 bytes at least wherever OpenCL 1.2 runs;
  // kernels index from the start, so a larger wish could not be granted by moving the start.
  if (alignment > target.info.base_address_alignment && alignment > tvm::runtime::kAllocAlignment) {
    TVM_FFI_THROW(ValueError) << "OpenCL allocation aligned to " << alignment << " bytes is not possible on "
                              << target.Describe() << ", which aligns to "
                              << target.info.base_address_alignment;
  }
  return AllocateBuffer(target, bytes);
}

void* OpenClDeviceApi::AllocDataSpace(tvm::Device device, int dimensions, const int64_t* shape,
                                      DLDataType type, tvm::ffi::Optional<tvm::ffi::String> scope) {
  if (!scope.has_value() || !IsImageScope(scope.value())) {
    return DeviceAPI::AllocDataSpace(device, dimensions, shape, type, scope);
  }
  return AllocateImage(Device::At(device.device_id), FlattenToImage(shape, dimensions, type, scope.value()));
}

size_t OpenClDeviceApi::GetDataSize(const DLTensor& tensor, tvm::ffi::Optional<tvm::ffi::String> scope) {
  if (!scope.has_value() || !IsImageScope(scope.value())) return DeviceAPI::GetDataSize(tensor, scope);
  return FlattenToImage(tensor.shape, tensor.ndim, tensor.dtype, scope.value()).bytes();
}

void OpenClDeviceApi::FreeDataSpace(tvm::Device, void* handle) {
  Free(Memory::FromHandle(handle, "FreeDataSpace"));
}

void OpenClDeviceApi::CopyDataFromTo(DLTensor* from, DLTensor* to, TVMStreamHandle) {
  CopyTensor(*from, *to);
}

void OpenClDeviceApi::StreamSync(tvm::Device device, TVMStreamHandle) {
  Device::At(device.device_id).Synchronise();
}

void* OpenClDeviceApi::AllocWorkspace(tvm::Device device, size_t bytes, DLDataType) {
  const size_t rounded = (bytes + kWorkspaceGranularity - 1) / kWorkspaceGranularity * kWorkspaceGranularity;
  return AllocateBuffer(Device::At(device.device_id), rounded, {MemoryKind::kWorkspace, true});
}

void OpenClDeviceApi::FreeWorkspace(tvm::Device, void* handle) {
  Free(Memory::FromHandle(handle, "FreeWorkspace"));
}

}  // namespace ddimcache::opencl
