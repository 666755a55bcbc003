// Buffers for calls that never run at once: what one of them leaves is lost to the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "opencl_types.h"

namespace ddimcache::opencl {

class Device;

// While an ArenaScope names it, planned storage of the Relax VM is taken from these buffers, each time the
// smallest that is large enough and free; what does not fit comes from the pool as always. Nobody else gets
// them, and recordings keep them as long as they live. The calls run on one thread at a time, and on the
// device in the order in which they are enqueued.
class Arena {
 public:
  // Throws RuntimeError as AllocateBuffer. `bytes` is of every buffer.
  Arena(Device& device, const std::vector<uint64_t>& bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Device& device() const { return device_; }

 private:
  void Unpin();

  Device& device_;
  std::vector<cl_mem> buffers_;
};

// While it lives, this thread's calls use the arena; none where that is null.
class ArenaScope {
 public:
  explicit ArenaScope(const Arena* arena) : before_(current_) { current_ = arena; }
  ~ArenaScope() { current_ = before_; }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

  // That of the innermost scope of this thread, where it is on `device`; null otherwise.
  static const Arena* Current(const Device& device);

 private:
  static thread_local const Arena* current_;
  const Arena* const before_;
};

}  // namespace ddimcache::opencl
