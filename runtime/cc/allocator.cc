#include "allocator.h"

namespace ddimcache::opencl {

using tvm::runtime::memory::Buffer;

Buffer OpenClAllocator::GiveOut(tvm::Device device, Memory* memory) {
  used_ += memory->bytes;
  Buffer buffer;
  buffer.data = memory;
  buffer.size = memory->bytes;
  buffer.device = device;
  buffer.alloc_type = type();
  return buffer;
}

Buffer OpenClAllocator::Alloc(tvm::Device device, size_t bytes, size_t, DLDataType type_hint) {
  const size_t size = is_pooled() ? WholePages(bytes) : bytes;
  const bool planned = is_pooled() && type_hint.code == kPlanned.code && type_hint.bits == kPlanned.bits;
  return GiveOut(device, AllocateBuffer(Device::At(device.device_id), size,
                                        {MemoryKind::kActivations, is_pooled(), planned}));
}

Buffer OpenClAllocator::Alloc(tvm::Device device, tvm::ffi::Shape shape, DLDataType type_hint,
                              const std::string& scope) {
  if (!IsImageScope(scope)) return Allocator::Alloc(device, shape, type_hint, scope);
  const ImageShape image = FlattenToImage(shape.data(), static_cast<int>(shape.size()), type_hint, scope);
  return GiveOut(device, AllocateImage(Device::At(device.device_id), image, is_pooled()));
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

void OpenClAllocator::FreeView(tvm::Device device, void* data) {
  if (!Memory::FromHandle(data, "a view of a storage")->is_view) return;
  Buffer view;
  view.data = data;
  view.device = device;
  Free(view);
}

void OpenClAllocator::Free(const Buffer& buffer) {
  Memory* memory = Memory::FromHandle(buffer.data, "the VM's allocator");
  used_ -= memory->bytes;
  opencl::Free(memory);
}

void OpenClAllocator::Clear() {
  Device::At(device_.device_id).memory.ReleaseIdle();
}

bool OpenClAllocator::AllowMemoryScope(const std::string& scope) const {
  return scope.empty() || scope == "global" || IsImageScope(scope);
}

}  // namespace ddimcache::opencl
