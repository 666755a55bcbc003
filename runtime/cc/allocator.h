// Where the Relax VM takes its storage from.
#pragma once

#include <tvm/runtime/memory/memory_manager.h>

#include <atomic>
#include <string>

#include "memory.h"

namespace ddimcache::opencl {

// Like TVM's own allocators (naive: straight to the device; pooled: kept for reuse, by the device's
// MemoryPool with everything else), and in addition knows image scopes, which TVM's refuse.
class OpenClAllocator final : public tvm::runtime::memory::Allocator {
 public:
  OpenClAllocator(tvm::Device device, tvm::runtime::memory::AllocatorType type)
      : Allocator(type), device_(device) {}

  // Pooled storage is a number of pages.
  static constexpr size_t kPageBytes = 4096;
  static size_t WholePages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

  using Allocator::Alloc;
  tvm::runtime::memory::Buffer Alloc(tvm::Device device, size_t bytes, size_t alignment,
                                     DLDataType type_hint) final;
  tvm::runtime::memory::Buffer Alloc(tvm::Device device, tvm::ffi::Shape shape, DLDataType type_hint,
                                     const std::string& scope) final;

  // A tensor in an image scope on top of a storage. Image and storage can differ in shape; then the view is
  // an image of its own, because OpenCL cannot see one image as another.
  void* CreateView(const tvm::runtime::memory::Buffer& buffer, tvm::ffi::Shape shape, DLDataType type_hint,
                   const std::string& scope) final;
  void FreeView(tvm::Device device, void* data) final;

  void Free(const tvm::runtime::memory::Buffer& buffer) final;
  // Releases what is idle on the device.
  void Clear() final;
  // Bytes that this allocator gave out and has not got back.
  size_t UsedMemory() const final { return used_; }

 private:
  // As what compiler/passes/plan_memory.py allocates storage. What a call returns has its tensor's type, and
  // no function returns this one.
  static constexpr DLDataType kPlanned = {kDLInt, 8, 1};

  bool is_pooled() const { return type() == tvm::runtime::memory::kPooled; }
  bool AllowMemoryScope(const std::string& scope) const final;
  tvm::runtime::memory::Buffer GiveOut(tvm::Device device, Memory* memory);

  const tvm::Device device_;
  std::atomic<size_t> used_{0};
};

}  // namespace ddimcache::opencl
