#include "memory.h"

#include <tvm/ffi/error.h>

#include <memory>
#include <string>
#include <vector>

#include "recording.h"

namespace ddimcache::opencl {
namespace {

constexpr size_t kOrigin[3] = {0, 0, 0};

void CheckRange(const Memory* memory, size_t offset, size_t bytes, const char* what) {
  // Written so that neither side can overflow.
  if (offset > memory->bytes || bytes > memory->bytes - offset) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy of " << bytes << " bytes at offset " << offset << " leaves the "
                              << what << " of " << memory->bytes << " bytes on "
                              << memory->device->Describe();
  }
  if (memory->is_image() && (offset != 0 || bytes != memory->bytes)) {
    TVM_FFI_THROW(ValueError) << "OpenCL copy of " << bytes << " bytes at offset " << offset
                              << ": an image is copied whole, and this one has " << memory->bytes << " bytes";
  }
}

// Enqueues one copy from or to the host and throws, naming call and size, when it fails.
template <typename Enqueue>
void Copy(Device& device, const char* label, const char* call, size_t bytes, Enqueue enqueue) {
  RefuseWhileRecording("a copy of " + std::to_string(bytes) + " bytes from or to the host");
  const cl_int code = device.queue().Submit(label, enqueue);
  if (code != kSuccess) {
    ThrowError(code, call, "of a copy of " + std::to_string(bytes) + " bytes on " + device.Describe());
  }
}

// As above for a copy that blocks: when it has run, so has everything before it.
template <typename Enqueue>
void BlockingCopy(Device& device, const char* label, const char* call, size_t bytes, Enqueue enqueue) {
  Queue& queue = device.queue();
  const uint64_t before = queue.enqueued();
  Copy(device, label, call, bytes, enqueue);
  // With other threads at work, the next one counted need not be this copy.
  queue.NoteFinished(queue.enqueued() == before + 1 ? before + 1 : before);
}

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
  if (const auto block = device.memory.Take(bytes, image, kind, allocation.pooled)) {
    memory->handle = block->handle;
    memory->bytes = block->bytes;
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
  return memory.release();
}

// As Copy between `memory` on the device, or adds it to the recording that this thread makes: so `enqueue`
// holds everything by value.
template <typename Enqueue>
void CopyThere(Device& device, const char* label, const char* call, size_t bytes,
               std::initializer_list<cl_mem> memory, Enqueue enqueue) {
  if (Recording* recording = Recording::Current()) {
    recording->AddCopy(device, {label, call, bytes, enqueue}, {memory.begin(), memory.size()});
    return;
  }
  Copy(device, label, call, bytes, enqueue);
}

struct Region {
  size_t sides[3];
  explicit Region(const ImageShape& image) : sides{image.width, image.height, image.layers} {}
};

bool Overlap(size_t first, size_t second, size_t bytes) {
  return (first > second ? first - second : second - first) < bytes;
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

Memory* AllocateImage(Device& device, const ImageShape& shape, bool pooled) {
  const DeviceInfo& info = device.info;
  const std::string sides = std::to_string(shape.width) + "x" + std::to_string(shape.height) + " pixels in " +
                            std::to_string(shape.layers) + " layers";
  if (!info.images || shape.width > info.image2d_max_width || shape.height > info.image2d_max_height ||
      shape.layers > info.image_max_array_size) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL image of " << sides << " exceeds the limits of "
                                << info.image2d_max_width << "x" << info.image2d_max_height << " pixels in "
                                << info.image_max_array_size << " layers on " << device.Describe()
                                << ": keep this tensor in a buffer";
  }
  const ImageFormat format{kChannelOrderRgba, shape.channel_type};
  const ImageDescription description{
      kMemObjectImage2dArray, shape.width, shape.height, 1, shape.layers, 0, 0, 0, 0, nullptr};
  return Allocate(device, shape.bytes(), shape, {MemoryKind::kImages, pooled}, "clCreateImage", sides,
                  [&](cl_int* code) {
                    return device.api.clCreateImage(device.context(), kMemReadWrite, &format, &description,
                                                    nullptr, code);
                  });
}

void Free(Memory* memory) {
  const Block block{memory->handle, memory->bytes, memory->image, memory->kind, 0};
  Device& device = *memory->device;
  const bool keep = memory->pooled && memory->kind != MemoryKind::kWeights;
  // A tensor that is used after this finds the number gone, most of the time.
  memory->magic = 0;
  delete memory;
  device.memory.GiveBack(block, keep);
}

void CopyToDevice(const void* source, Memory* target, size_t offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(target, offset, bytes, "target");
  Device& device = *target->device;
  if (target->is_image()) {
    const Region region(target->image);
    BlockingCopy(device, "copy host to image", "clEnqueueWriteImage", bytes,
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueWriteImage(queue, target->handle, kBlocking, kOrigin,
                                                         region.sides, 0, 0, source, 0, nullptr, event);
                 });
    return;
  }
  BlockingCopy(device, "copy host to device", "clEnqueueWriteBuffer", bytes,
               [&](cl_command_queue queue, cl_event* event) {
                 return device.api.clEnqueueWriteBuffer(queue, target->handle, kBlocking, offset, bytes,
                                                        source, 0, nullptr, event);
               });
}

void CopyToHost(Memory* source, size_t offset, void* target, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, offset, bytes, "source");
  Device& device = *source->device;
  if (source->is_image()) {
    const Region region(source->image);
    BlockingCopy(device, "copy image to host", "clEnqueueReadImage", bytes,
                 [&](cl_command_queue queue, cl_event* event) {
                   return device.api.clEnqueueReadImage(queue, source->handle, kBlocking, kOrigin,
                                                        region.sides, 0, 0, target, 0, nullptr, event);
                 });
    return;
  }
  BlockingCopy(device, "copy device to host", "clEnqueueReadBuffer", bytes,
               [&](cl_command_queue queue, cl_event* event) {
                 return device.api.clEnqueueReadBuffer(queue, source->handle, kBlocking, offset, bytes,
                                                       target, 0, nullptr, event);
               });
}

void CopyOnDevice(Memory* source, size_t source_offset, Memory* target, size_t target_offset, size_t bytes) {
  if (bytes == 0) return;
  CheckRange(source, source_offset, bytes, "source");
  CheckRange(target, target_offset, bytes, "target");
  const bool both_images = source->is_image() && target->is_image();
  // Other devices are other contexts; images of different shape hold the same bytes in another arrangement.
  if (source->device != target->device || (both_images && source->image != target->image)) {
    std::vector<uint8_t> staging(bytes);
    CopyToHost(source, source_offset, staging.data(), bytes);
    CopyToDevice(staging.data(), target, target_offset, bytes);
    return;
  }
  if (source == target) {
    if (source_offset == target_offset) return;
    if (Overlap(source_offset, target_offset, bytes)) {
      // OpenCL refuses overlapping copies.
      const std::unique_ptr<Memory, void (*)(Memory*)> staging(AllocateBuffer(*source->device, bytes), Free);
      CopyOnDevice(source, source_offset, staging.get(), 0, bytes);
      CopyOnDevice(staging.get(), 0, target, target_offset, bytes);
      return;
    }
  }
  Device& device = *source->device;
  const Api& api = device.api;
  const cl_mem from = source->handle, to = target->handle;
  if (both_images) {
    CopyThere(device, "copy image to image", "clEnqueueCopyImage", bytes, {from, to},
              [=, &api, region = Region(source->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyImage(queue, from, to, kOrigin, kOrigin, region.sides, 0, nullptr,
                                              event);
              });
  } else if (source->is_image()) {
    CopyThere(device, "copy image to buffer", "clEnqueueCopyImageToBuffer", bytes, {from, to},
              [=, &api, region = Region(source->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyImageToBuffer(queue, from, to, kOrigin, region.sides, target_offset,
                                                      0, nullptr, event);
              });
  } else if (target->is_image()) {
    CopyThere(device, "copy buffer to image", "clEnqueueCopyBufferToImage", bytes, {from, to},
              [=, &api, region = Region(target->image)](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyBufferToImage(queue, from, to, source_offset, kOrigin, region.sides,
                                                      0, nullptr, event);
              });
  } else {
    CopyThere(device, "copy device to device", "clEnqueueCopyBuffer", bytes, {from, to},
              [=, &api](cl_command_queue queue, cl_event* event) {
                return api.clEnqueueCopyBuffer(queue, from, to, source_offset, target_offset, bytes, 0,
                                               nullptr, event);
              });
  }
}

}  // namespace ddimcache::opencl
