#include "memory.h"

#include <tvm/ffi/error.h>

#include <memory>
#include <string>

#include "arena.h"
#include "recording.h"

namespace ddimcache::opencl {
namespace {

// `create(&code)` asks the driver; `size` describes what was asked for.
template <typename Create>
Memory* Allocate(Device& device, size_t bytes, const ImageShape& image, Allocation allocation,
                 const char* call, const std::string& size, Create create) {
  const MemoryKind kind = MemoryKindScope::Current().value_or(allocation.kind);
  auto memory = std::make_unique<Memory>();
  memory->device = &device;
  memory->bytes = bytes;
  memory->image = image;
  memory->kind = kind;
  memory->pooled = allocation.pooled;
  Recording* recording = Recording::Current();
  if (recording != nullptr && &recording->device() != &device) recording = nullptr;
  // By whose name it is given out again.
  const void* name = recording != nullptr ? recording->arena() : nullptr;
  const Arena* shared = allocation.planned ? ArenaScope::Current(device) : nullptr;
  auto block = shared != nullptr ? device.memory.TakeOf(shared, bytes, kind) : std::nullopt;
  if (block) {
    name = shared;
  } else {
    block = device.memory.Take(bytes, image, kind, allocation.pooled, allocation.pooled ? name : nullptr);
  }
  if (block) {
    memory->handle = block->handle;
    memory->bytes = block->bytes;
    if (recording != nullptr) recording->NoteAllocation(memory->handle, name);
    return memory.release();
  }
  device.memory.Reserve(kind, bytes, image.width != 0 ? "image" : "buffer");
  cl_int code = kSuccess;
  memory->handle = create(&code);
  if (code != kSuccess) {
    // What is idle, or waits for running commands, may be what is missing.
    device.memory.ReleaseIdle();
    try {
      device.Synchronise();
    } catch (...) {
      device.memory.Cancel(kind, bytes);
      throw;
    }
    memory->handle = create(&code);
  }
  if (code != kSuccess) {
    device.memory.Cancel(kind, bytes);
    ThrowError(code, call, "of " + size + " for " + MemoryKindName(kind) + " on " + device.Describe());
  }
  if (recording != nullptr) recording->NoteAllocation(memory->handle, name);
  return memory.release();
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

Memory* AllocateBuffer(Device& device, size_t bytes, Allocation allocation) {
  const uint64_t limit = device.info.max_alloc_bytes;
  if (limit != 0 && bytes > limit) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL allocation of " << bytes << " bytes exceeds the limit of " << limit
                                << " bytes for one buffer (CL_DEVICE_MAX_MEM_ALLOC_SIZE) on "
                                << device.Describe() << ": split the tensor or tile the operation";
  }
  return Allocate(device, bytes, {}, allocation, "clCreateBuffer", std::to_string(bytes) + " bytes",
                  [&](cl_int* code) {
                    // OpenCL has no empty buffers; TVM has empty tensors.
                    return device.api.clCreateBuffer(device.context(), kMemReadWrite, bytes == 0 ? 1 : bytes,
                                                     nullptr, code);
                  });
}

namespace {

std::string Sides(const ImageShape& shape) {
  return std::to_string(shape.width) + "x" + std::to_string(shape.height) + " pixels in " +
         std::to_string(shape.layers) + " layers";
}

void CheckImage(const Device& device, const ImageShape& shape) {
  const DeviceInfo& info = device.info;
  if (!info.images || shape.width > info.image2d_max_width || shape.height > info.image2d_max_height ||
      shape.layers > info.image_max_array_size) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL image of " << Sides(shape) << " exceeds the limits of "
                                << info.image2d_max_width << "x" << info.image2d_max_height << " pixels in "
                                << info.image_max_array_size << " layers on " << device.Describe()
                                << ": keep this tensor in a buffer";
  }
  if (info.max_alloc_bytes != 0 && shape.bytes() > info.max_alloc_bytes) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL image of " << Sides(shape) << " has " << shape.bytes()
                                << " bytes, above the limit of " << info.max_alloc_bytes
                                << " bytes for one image (CL_DEVICE_MAX_MEM_ALLOC_SIZE) on "
                                << device.Describe() << ": split the tensor or tile the operation";
  }
}

ImageDescription Describe(const ImageShape& shape, size_t row_pitch, cl_mem buffer) {
  return {shape.is_array ? kMemObjectImage2dArray : kMemObjectImage2d,
          shape.width,
          shape.height,
          1,
          shape.is_array ? shape.layers : 0,
          row_pitch,
          0,
          0,
          0,
          buffer};
}

}  // namespace

Memory* AllocateImage(Device& device, const ImageShape& shape, bool pooled) {
  CheckImage(device, shape);
  const ImageFormat format{kChannelOrderRgba, shape.channel_type};
  const ImageDescription description = Describe(shape, 0, nullptr);
  return Allocate(device, shape.bytes(), shape, {MemoryKind::kImages, pooled}, "clCreateImage", Sides(shape),
                  [&](cl_int* code) {
                    return device.api.clCreateImage(device.context(), kMemReadWrite, &format, &description,
                                                    nullptr, code);
                  });
}

bool CanBeImage(const Memory& buffer, const ImageShape& shape, size_t row_pitch) {
  const DeviceInfo& info = buffer.device->info;
  const size_t pixel = 4 * shape.channel_bytes;
  const size_t alignment = info.image_pitch_alignment_pixels * pixel;
  return info.HasExtension("cl_khr_image2d_from_buffer") && alignment != 0 && !shape.is_array &&
         !buffer.is_image() && row_pitch % alignment == 0 && row_pitch * shape.height <= buffer.bytes;
}

Memory* ViewAsImage(Memory& buffer, const ImageShape& shape, size_t row_pitch) {
  Device& device = *buffer.device;
  CheckImage(device, shape);
  const ImageFormat format{kChannelOrderRgba, shape.channel_type};
  const ImageDescription description = Describe(shape, row_pitch, buffer.handle);
  Memory* view = Allocate(device, 0, shape, {MemoryKind::kImages, false}, "clCreateImage",
                          Sides(shape) + " in a buffer", [&](cl_int* code) {
                            return device.api.clCreateImage(device.context(), kMemReadWrite, &format,
                                                            &description, nullptr, code);
                          });
  view->bytes = shape.bytes();
  view->shares_storage = true;
  return view;
}

void Free(Memory* memory) {
  const Block block{memory->handle, memory->shares_storage ? 0 : memory->bytes, memory->image, memory->kind,
                    0};
  Device& device = *memory->device;
  const bool keep = memory->pooled && memory->kind != MemoryKind::kWeights;
  // A tensor that is used after this finds the number gone, most of the time.
  memory->magic = 0;
  delete memory;
  device.memory.GiveBack(block, keep);
}

}  // namespace ddimcache::opencl
