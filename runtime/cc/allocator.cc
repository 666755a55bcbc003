#include "allocator.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace ddimcache::opencl {

using tvm::runtime::memory::Buffer;

Buffer OpenClAllocator::Alloc(tvm::Device device, size_t bytes, size_t, DLDataType) {
  const bool pooled = type() == tvm::runtime::memory::kPooled;
  const size_t size = pooled ? (bytes + kPageBytes - 1) / kPageBytes * kPageBytes : bytes;
  Buffer buffer;
  buffer.device = device;
  buffer.size = size;
  buffer.alloc_type = type();
  if (pooled) {
    std::lock_guard lock(mutex_);
    if (const auto idle = buffers_.find(size); idle != buffers_.end()) {
      buffer.data = idle->second;
      buffers_.erase(idle);
      return buffer;
    }
  }
  Device& target = Device::At(device.device_id);
  try {
    buffer.data = AllocateBuffer(target, size);
  } catch (const tvm::ffi::Error&) {
    // Memory may be short only because the pool sits on buffers of other sizes.
    Clear();
    buffer.data = AllocateBuffer(target, size);
  }
  used_ += size;
  return buffer;
}

Buffer OpenClAllocator::Alloc(tvm::Device device, tvm::ffi::Shape shape, DLDataType type_hint,
                              const std::string& scope) {
  if (!IsImageScope(scope)) return Allocator::Alloc(device, shape, type_hint, scope);
  const ImageShape image = FlattenToImage(shape.data(), static_cast<int>(shape.size()), type_hint, scope);
  Buffer buffer;
  buffer.device = device;
  buffer.size = image.bytes();
  buffer.alloc_type = type();
  {
    std::lock_guard lock(mutex_);
    const auto idle = std::find_if(images_.begin(), images_.end(),
                                   [&](const Memory* memory) { return memory->image == image; });
    if (idle != images_.end()) {
      buffer.data = *idle;
      images_.erase(idle);
      return buffer;
    }
  }
  buffer.data = AllocateImage(Device::At(device.device_id), image);
  used_ += buffer.size;
  return buffer;
}

void* OpenClAllocator::CreateView(const Buffer& buffer, tvm::ffi::Shape shape, DLDataType type_hint,
                                  const std::string& scope) {
  if (!IsImageScope(scope)) return buffer.data;
  const auto* storage = Memory::FromHandle(buffer.data, "a view of a storage");
  const ImageShape image = FlattenToImage(shape.data(), static_cast<int>(shape.size()), type_hint, scope);
  if (storage->image == image) return buffer.data;
  const Buffer own = Alloc(buffer.device, shape, type_hint, scope);
  auto* view = Memory::FromHandle(own.data, "a view of a storage");
  view->is_view = true;
  return view;
}

void OpenClAllocator::FreeView(tvm::Device, void* data) {
  auto* memory = Memory::FromHandle(data, "a view of a storage");
  if (!memory->is_view) return;
  memory->is_view = false;
  Keep(memory);
}

void OpenClAllocator::Free(const Buffer& buffer) {
  Keep(Memory::FromHandle(buffer.data, "the VM's allocator"));
}

void OpenClAllocator::Keep(Memory* memory) {
  if (type() == tvm::runtime::memory::kPooled) {
    std::lock_guard lock(mutex_);
    if (memory->is_image()) {
      images_.push_back(memory);
    } else {
      buffers_.emplace(memory->bytes, memory);
    }
    return;
  }
  used_ -= memory->bytes;
  opencl::Free(memory);
}

void OpenClAllocator::Clear() {
  std::vector<Memory*> idle;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [bytes, memory] : std::exchange(buffers_, {})) idle.push_back(memory);
    for (Memory* memory : std::exchange(images_, {})) idle.push_back(memory);
  }
  for (Memory* memory : idle) {
    used_ -= memory->bytes;
    opencl::Free(memory);
  }
}

bool OpenClAllocator::AllowMemoryScope(const std::string& scope) const {
  return scope.empty() || scope == "global" || IsImageScope(scope);
}

}  // namespace ddimcache::opencl
