#include "memory_pool.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <utility>

#include "device.h"

namespace ddimcache::opencl {
namespace {

// An eighth of the device's memory: a few times the planned activations of a large model, and little enough
// that a phone does not close other programs for it.
constexpr uint64_t kIdleShare = 8;
constexpr uint64_t kSmallestIdleLimit = uint64_t{64} << 20;

}  // namespace

MemoryPool::MemoryPool(Device& device) : device_(device) {
  use_.idle_limit = std::max(kSmallestIdleLimit, device.info.global_mem_bytes / kIdleShare);
}

bool MemoryPool::Fits(size_t bytes) const {
  return use_.budget == 0 || (use_.current <= use_.budget && bytes <= use_.budget - use_.current);
}

void MemoryPool::CountUse(MemoryKind kind, size_t bytes) {
  MemoryUse::Kind& count = use_.kinds[static_cast<size_t>(kind)];
  ++count.blocks;
  count.current += bytes;
  count.peak = std::max(count.peak, count.current);
}

void MemoryPool::CountEnd(MemoryKind kind, size_t bytes) {
  MemoryUse::Kind& count = use_.kinds[static_cast<size_t>(kind)];
  --count.blocks;
  count.current -= bytes;
}

Block MemoryPool::Remove(std::vector<Block>& blocks, uint64_t& counter, size_t index) {
  const Block block = blocks[index];
  blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(index));
  counter -= block.bytes;
  return block;
}

std::optional<Block> MemoryPool::TakeOfArena(size_t bytes, size_t most, const ImageShape& image,
                                             const void* arena) {
  Pinned* best = nullptr;
  for (auto& [handle, pinned] : pinned_) {
    if (pinned.arena != arena || !pinned.ended || pinned.ended->image != image) continue;
    const size_t size = pinned.ended->bytes;
    if (size < bytes || size > most || (best != nullptr && size >= best->ended->bytes)) continue;
    best = &pinned;
  }
  if (best == nullptr) return std::nullopt;
  const Block block = *best->ended;
  best->ended.reset();
  CountEnd(block.kind, block.bytes);
  return block;
}

std::optional<Block> MemoryPool::Take(size_t bytes, const ImageShape& image, MemoryKind kind, bool slack,
                                      const void* arena) {
  const size_t most = slack ? bytes + bytes / 4 : bytes;
  std::lock_guard lock(mutex_);
  const auto smallest_that_fits = [&](const std::vector<Block>& blocks) {
    size_t best = blocks.size();
    for (size_t i = 0; i < blocks.size(); ++i) {
      const Block& block = blocks[i];
      if (block.image != image || block.bytes < bytes || block.bytes > most) continue;
      if (best == blocks.size() || block.bytes < blocks[best].bytes) best = i;
    }
    return best;
  };
  std::optional<Block> found;
  if (arena != nullptr) found = TakeOfArena(bytes, most, image, arena);
  if (found) {
    // A block of the arena.
  } else if (const size_t index = smallest_that_fits(idle_); index < idle_.size()) {
    found = Remove(idle_, use_.idle, index);
  } else if (const size_t index = smallest_that_fits(waiting_); index < waiting_.size()) {
    found = Remove(waiting_, use_.waiting, index);
  }
  if (found) {
    found->kind = kind;
    CountUse(kind, found->bytes);
  }
  return found;
}

std::optional<Block> MemoryPool::TakeOf(const void* arena, size_t bytes, MemoryKind kind) {
  std::lock_guard lock(mutex_);
  std::optional<Block> found = TakeOfArena(bytes, SIZE_MAX, {}, arena);
  if (found) {
    found->kind = kind;
    CountUse(kind, found->bytes);
  }
  return found;
}

void MemoryPool::Reserve(MemoryKind kind, size_t bytes, const char* what) {
  const auto reserved = [&] {
    if (!Fits(bytes)) return false;
    CountUse(kind, bytes);
    ++use_.blocks;
    use_.current += bytes;
    use_.peak = std::max(use_.peak, use_.current);
    return true;
  };
  ReleaseFinished();
  {
    std::lock_guard lock(mutex_);
    if (use_.waiting <= use_.idle_limit && reserved()) return;
    MakeRoom(bytes);
  }
  ReleaseFinished();
  {
    std::lock_guard lock(mutex_);
    if (use_.waiting <= use_.idle_limit && reserved()) return;
  }
  device_.Synchronise();
  std::string in_use;
  uint64_t budget = 0;
  {
    std::lock_guard lock(mutex_);
    if (reserved()) return;
    in_use = DescribeUse();
    budget = use_.budget;
  }
  TVM_FFI_THROW(RuntimeError)
      << "OpenCL " << what << " of " << bytes << " bytes for " << MemoryKindName(kind)
      << " goes over the memory budget of " << budget << " bytes on " << device_.Describe()
      << ", where in use are " << in_use
      << ": raise the budget, release other components first, or make a smaller picture";
}

void MemoryPool::Cancel(MemoryKind kind, size_t bytes) {
  std::lock_guard lock(mutex_);
  CountEnd(kind, bytes);
  --use_.blocks;
  use_.current -= bytes;
}

void MemoryPool::Shelve(Block block, bool keep) {
  if (keep && block.bytes <= use_.idle_limit) {
    idle_.push_back(block);
    use_.idle += block.bytes;
    DropIdleBeyond(use_.idle_limit);
    return;
  }
  waiting_.push_back(block);
  use_.waiting += block.bytes;
}

void MemoryPool::MakeRoom(size_t bytes) {
  // For what can never fit, nothing that is of use to others is given up.
  if (use_.budget == 0 || bytes > use_.budget) return;
  const uint64_t most = use_.budget - bytes;
  const uint64_t rest = use_.current - use_.idle;
  DropIdleBeyond(most > rest ? most - rest : 0);
}

void MemoryPool::DropIdleBeyond(uint64_t most_bytes) {
  while (use_.idle > most_bytes) {
    const Block block = Remove(idle_, use_.idle, 0);
    waiting_.push_back(block);
    use_.waiting += block.bytes;
  }
}

std::vector<Block> MemoryPool::CollectFinished(uint64_t finished) {
  std::vector<Block> done;
  const auto remaining = std::stable_partition(
      waiting_.begin(), waiting_.end(), [&](const Block& block) { return block.last_command > finished; });
  done.assign(remaining, waiting_.end());
  waiting_.erase(remaining, waiting_.end());
  for (const Block& block : done) {
    use_.waiting -= block.bytes;
    use_.current -= block.bytes;
    --use_.blocks;
  }
  return done;
}

void MemoryPool::Release(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) {
    cl_int code = kSuccess;
    for (cl_mem view : device_.pixels.Forget(block.handle)) code = device_.api.clReleaseMemObject(view);
    const cl_int released = device_.api.clReleaseMemObject(block.handle);
    if (released != kSuccess) code = released;
    if (code == kSuccess) continue;
    std::lock_guard lock(mutex_);
    release_failure_ = code;
  }
}

void MemoryPool::GiveBack(Block block, bool keep) {
  block.last_command = device_.queue().enqueued();
  {
    std::lock_guard lock(mutex_);
    if (const auto pinned = pinned_.find(block.handle); pinned != pinned_.end()) {
      pinned->second.ended = block;
      pinned->second.keep = keep;
      return;
    }
    CountEnd(block.kind, block.bytes);
    Shelve(block, keep);
  }
  ReleaseFinished();
}

void MemoryPool::ReleaseIdle() {
  {
    std::lock_guard lock(mutex_);
    DropIdleBeyond(0);
  }
  ReleaseFinished();
}

void MemoryPool::ReleaseFinished() {
  std::vector<Block> done;
  {
    std::lock_guard lock(mutex_);
    if (waiting_.empty()) return;
    done = CollectFinished(device_.queue().finished());
  }
  Release(done);
}

void MemoryPool::ReleaseWaiting(uint64_t finished) {
  std::vector<Block> done;
  cl_int failure = kSuccess;
  {
    std::lock_guard lock(mutex_);
    done = CollectFinished(finished);
  }
  Release(done);
  {
    std::lock_guard lock(mutex_);
    failure = std::exchange(release_failure_, kSuccess);
  }
  Check(failure, "clReleaseMemObject", "on " + device_.Describe());
}

void MemoryPool::Pin(cl_mem handle, const void* arena) {
  std::lock_guard lock(mutex_);
  const auto pinned = pinned_.try_emplace(handle).first;
  if (++pinned->second.pins > 1) {
    if (pinned->second.arena != arena) pinned->second.arena = nullptr;
    return;
  }
  pinned->second.arena = arena;
  const auto withdraw = [&](std::vector<Block>& blocks, uint64_t& counter, bool keep) {
    const auto found = std::find_if(blocks.begin(), blocks.end(),
                                    [&](const Block& block) { return block.handle == handle; });
    if (found == blocks.end()) return;
    pinned->second.ended = Remove(blocks, counter, static_cast<size_t>(found - blocks.begin()));
    pinned->second.keep = keep;
    CountUse(pinned->second.ended->kind, pinned->second.ended->bytes);
  };
  withdraw(idle_, use_.idle, true);
  withdraw(waiting_, use_.waiting, false);
}

void MemoryPool::Unpin(cl_mem handle) {
  const uint64_t enqueued = device_.queue().enqueued();
  {
    std::lock_guard lock(mutex_);
    const auto pinned = pinned_.find(handle);
    if (pinned == pinned_.end() || --pinned->second.pins != 0) return;
    if (std::optional<Block> block = pinned->second.ended) {
      block->last_command = enqueued;
      CountEnd(block->kind, block->bytes);
      Shelve(*block, pinned->second.keep);
    }
    pinned_.erase(pinned);
  }
  ReleaseFinished();
}

MemoryUse MemoryPool::Use() const {
  std::lock_guard lock(mutex_);
  return use_;
}

void MemoryPool::ResetPeak() {
  std::lock_guard lock(mutex_);
  use_.peak = use_.current;
  for (MemoryUse::Kind& kind : use_.kinds) kind.peak = kind.current;
}

void MemoryPool::SetBudget(uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    use_.budget = bytes;
    MakeRoom(0);
  }
  ReleaseFinished();
}

void MemoryPool::SetIdleLimit(uint64_t bytes) {
  {
    std::lock_guard lock(mutex_);
    use_.idle_limit = bytes;
    DropIdleBeyond(bytes);
  }
  ReleaseFinished();
}

std::string MemoryPool::DescribeUse() const {
  std::string text;
  for (size_t kind = 0; kind < kMemoryKindCount; ++kind) {
    text += std::string(kind == 0 ? "" : ", ") + MemoryKindName(static_cast<MemoryKind>(kind)) + " " +
            std::to_string(use_.kinds[kind].current);
  }
  return text + " bytes";
}

}  // namespace ddimcache::opencl
