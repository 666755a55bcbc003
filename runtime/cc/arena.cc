#include "arena.h"

#include "allocator.h"
#include "memory.h"

namespace ddimcache::opencl {

thread_local const Arena* ArenaScope::current_ = nullptr;

const Arena* ArenaScope::Current(const Device& device) {
  return current_ != nullptr && &current_->device() == &device ? current_ : nullptr;
}

Arena::Arena(Device& device, const std::vector<uint64_t>& bytes) : device_(device) {
  try {
    for (const uint64_t size : bytes) {
      const size_t whole = OpenClAllocator::WholePages(size);
      Memory* memory = AllocateBuffer(device, whole, {MemoryKind::kActivations, true});
      // Pinned under the arena's name when its use ends, it is there for those who ask by that name.
      buffers_.push_back(memory->handle);
      device.memory.Pin(memory->handle, this);
      Free(memory);
    }
  } catch (...) {
    Unpin();
    throw;
  }
}

Arena::~Arena() {
  Unpin();
}

void Arena::Unpin() {
  for (cl_mem buffer : buffers_) device_.memory.Unpin(buffer);
}

}  // namespace ddimcache::opencl
