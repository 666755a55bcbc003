// Where the Relax VM takes its storage from.
#pragma once

#include <tvm/runtime/memory/memory_manager.h>

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "memory.h"

namespace ddimcache::opencl {

// Like TVM's own allocators (naive: straight to the device; pooled: freed buffers are kept and given out
// again at the same size), and in addition knows image scopes, which TVM's refuse.
class OpenClAllocator final : public tvm::runtime::memory::Allocator {
 public:
  explicit OpenClAllocator(tvm::runtime::memory::AllocatorType type) : Allocator(type) {}

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
  void Clear() final;
  size_t UsedMemory() const final { return used_; }

 private:
  static constexpr size_t kPageBytes = 4096;

  bool AllowMemoryScope(const std::string& scope) const final;
  void Keep(Memory* memory);

  std::mutex mutex_;
  // Idle buffers by size, and idle images.
  std::multimap<size_t, Memory*> buffers_;
  std::vector<Memory*> images_;
  std::atomic<size_t> used_{0};
};

}  // namespace ddimcache::opencl
