#include "memory.h"

#include <tvm/ffi/error.h>

#include <memory>
#include <vector>

namespace ddimcache::opencl {
namespace {

std::string BytesText(size_t bytes) {
  return std::to_string(bytes) + " bytes";
}

void CheckRange(const Memory* memory, size_t offset, size_t bytes, const char* what) {
  // Written so that neither side can overflow.
  if (offset > memory->bytes || bytes > memory->bytes - offset) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy of " << bytes << " bytes at offset " << offset << " leaves the "
                              << what << " buffer of " << memory->bytes << " bytes on "
                              << memory->device->Describe();
  }
}

std::string CopySubject(size_t bytes, const Device& device) {
  return "of a copy of " + BytesText(bytes) + " on " + device.Describe();
}

}  // namespace

Memory* Memory::FromHandle(void* handle, const char* use) {
  if (handle == nullptr) {
    TVM_FFI_THROW(ValueError) << use << " got a null handle where an OpenCL buffer is needed";
  }
  auto* memory = static_cast<Memory*>(handle);
  if (reinterpret_cast<uintptr_t>(handle) % alignof(Memory) != 0 || memory->magic != kMagic) {
    TVM_FFI_THROW(ValueError) << use
                              << " got a handle that is no live OpenCL buffer: move the tensor to the OpenCL "
                                 "device first, and do not use it after it was freed";
  }
  return memory;
}

Memory* AllocateBuffer(Device& device, size_t bytes) {
  const uint64_t limit = device.info.max_alloc_bytes;
  if (limit != 0 && bytes > limit) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL allocation of " << bytes << " bytes exceeds the limit of " << limit
                                << " bytes for one buffer (CL_DEVICE_MAX_MEM_ALLOC_SIZE) on "
                                << device.Describe() << ": split the tensor or tile the operation";
  }
  cl_int code = kSuccess;
  // OpenCL has no empty buffers; TVM has empty tensors.
  cl_mem handle =
      device.api.clCreateBuffer(device.context(), kMemReadWrite, bytes == 0 ? 1 : bytes, nullptr, &code);
  Check(code, "clCreateBuffer", "of " + BytesText(bytes) + " on " + device.Describe());
  auto* memory = new Memory{Memory::kMagic, handle, &device, bytes};
  device.memory.Add(bytes);
  return memory;
}

void Free(Memory* memory) {
  Device& device = *memory->device;
  device.queue().FinishIfBusy();
  const cl_int code = device.api.clReleaseMemObject(memory->handle);
  device.memory.Remove(memory->bytes);
  memory->magic = 0;
  delete memory;
  Check(code, "clReleaseMemObject", "on " + device.Describe());
}

void CopyToDevice(const void* source, Memory* target, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(target, offset, bytes, "target");
  Device& device = *target->device;
  const cl_int code =
      device.queue().Submit("copy host to device", [&](cl_command_queue queue, cl_event* event) {
        return device.api.clEnqueueWriteBuffer(queue, target->handle, kBlocking, offset, bytes, source, 0,
                                               nullptr, event);
      });
  if (code != kSuccess) ThrowError(code, "clEnqueueWriteBuffer", CopySubject(bytes, device));
}

void CopyToHost(Memory* source, size_t offset, void* target, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, offset, bytes, "source");
  Device& device = *source->device;
  const cl_int code =
      device.queue().Submit("copy device to host", [&](cl_command_queue queue, cl_event* event) {
        return device.api.clEnqueueReadBuffer(queue, source->handle, kBlocking, offset, bytes, target, 0,
                                              nullptr, event);
      });
  if (code != kSuccess) ThrowError(code, "clEnqueueReadBuffer", CopySubject(bytes, device));
}

void CopyOnDevice(Memory* source, size_t source_offset, Memory* target, size_t target_offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, source_offset, bytes, "source");
  CheckRange(target, target_offset, bytes, "target");
  if (source->device != target->device) {
    std::vector<uint8_t> staging(bytes);
    CopyToHost(source, source_offset, staging.data(), bytes);
    CopyToDevice(staging.data(), target, target_offset, bytes);
    return;
  }
  if (source == target) {
    if (source_offset == target_offset) return;
    const size_t distance =
        source_offset > target_offset ? source_offset - target_offset : target_offset - source_offset;
    if (distance < bytes) {
      // OpenCL refuses overlapping copies.
      const std::unique_ptr<Memory, void (*)(Memory*)> staging(AllocateBuffer(*source->device, bytes), Free);
      CopyOnDevice(source, source_offset, staging.get(), 0, bytes);
      CopyOnDevice(staging.get(), 0, target, target_offset, bytes);
      return;
    }
  }
  Device& device = *source->device;
  const cl_int code =
      device.queue().Submit("copy device to device", [&](cl_command_queue queue, cl_event* event) {
        return device.api.clEnqueueCopyBuffer(queue, source->handle, target->handle, source_offset,
                                              target_offset, bytes, 0, nullptr, event);
      });
  if (code != kSuccess) ThrowError(code, "clEnqueueCopyBuffer", CopySubject(bytes, device));
}

}  // namespace ddimcache::opencl
