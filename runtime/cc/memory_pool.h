// The memory of one device: what is in use by kind, what is kept for reuse, what waits to be released, and
// the budget over all of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "image.h"
#include "memory_kind.h"
#include "opencl_types.h"

namespace ddimcache::opencl {

class Device;

// One buffer or image of OpenCL.
struct Block {
  cl_mem handle = nullptr;
  size_t bytes = 0;
  // All zero for a buffer.
  ImageShape image;
  MemoryKind kind = MemoryKind::kOther;
  // Commands that were enqueued when it was given back: it can be released once so many have run.
  uint64_t last_command = 0;
};

// A consistent reading of the counters. Bytes.
struct MemoryUse {
  struct Kind {
    uint64_t blocks = 0, current = 0, peak = 0;
  };
  std::array<Kind, kMemoryKindCount> kinds;
  // Kept for reuse; freed under running commands and not released yet.
  uint64_t idle = 0, waiting = 0;
  // Everything that the driver gave and has not got back, and the most of it at one time.
  uint64_t blocks = 0, current = 0, peak = 0;
  // Zero where there is none.
  uint64_t budget = 0;
  // The most that is kept for reuse, and that may wait when more is allocated.
  uint64_t idle_limit = 0;
};

// A block is in use, idle or waiting. To give one back never waits for the device: the queue is in order, so
// an idle block may be given out again while commands still use it, and a waiting one is released by a later
// call that finds its commands done. Thread-safe.
class MemoryPool {
 public:
  explicit MemoryPool(Device& device);

  // A block that fits and is not in use, counted as `kind`; buffers with `slack` may be up to a quarter
  // larger than asked for. With an `arena`, one that was pinned for it and has ended comes first.
  std::optional<Block> Take(size_t bytes, const ImageShape& image, MemoryKind kind, bool slack,
                            const void* arena = nullptr);

  // The smallest buffer of at least `bytes`, however large, that was pinned for `arena` and has ended.
  std::optional<Block> TakeOf(const void* arena, size_t bytes, MemoryKind kind);

  // Counts bytes as in use before the driver is asked for them, so that several threads cannot exceed the
  // budget together. Over the budget it releases what is idle, the longest idle first, then waits for what is
  // only waiting, then throws RuntimeError naming kind, size, use by kind and budget. `what` is "buffer" or
  // "image".
  void Reserve(MemoryKind kind, size_t bytes, const char* what);
  // Takes that back: the driver refused.
  void Cancel(MemoryKind kind, size_t bytes);

  // Ends the use of a block: kept for reuse up to the limit, or released once its commands have run. Does not
  // throw; what the driver says against a release is reported by the next synchronisation.
  void GiveBack(Block block, bool keep);

  // Releases everything idle: at once what no running command uses, the rest when its commands have run.
  void ReleaseIdle();

  // The first `finished` commands have run: releases what waited for them. Throws RuntimeError when the
  // driver refused a release.
  void ReleaseWaiting(uint64_t finished);

  // As long as it is pinned, a block is not given to others when its use ends: a recording writes to it at
  // every replay. It may be in use, idle or waiting. Each pin needs one Unpin. Where every pin names the same
  // `arena`, Take gives the ended block to that arena again.
  void Pin(cl_mem handle, const void* arena);
  void Unpin(cl_mem handle);

  MemoryUse Use() const;
  void ResetPeak();
  // Releases what is idle beyond it. What is in use stays, also where that is more; 0 is no budget.
  void SetBudget(uint64_t bytes);
  void SetIdleLimit(uint64_t bytes);

 private:
  struct Pinned {
    size_t pins = 0;
    // Null where the block is of none, or of several.
    const void* arena = nullptr;
    // The block, once its use has ended.
    std::optional<Block> ended;
    bool keep = false;
  };

  // All of these want the mutex held.
  bool Fits(size_t bytes) const;
  void CountUse(MemoryKind kind, size_t bytes);
  void CountEnd(MemoryKind kind, size_t bytes);
  void Shelve(Block block, bool keep);
  void MakeRoom(size_t bytes);
  void DropIdleBeyond(uint64_t most_bytes);
  std::optional<Block> TakeOfArena(size_t bytes, size_t most, const ImageShape& image, const void* arena);
  Block Remove(std::vector<Block>& blocks, uint64_t& counter, size_t index);
  std::vector<Block> CollectFinished(uint64_t finished);
  std::string DescribeUse() const;

  // These two want it free.
  void Release(const std::vector<Block>& blocks);
  void ReleaseFinished();

  Device& device_;
  mutable std::mutex mutex_;
  MemoryUse use_;
  // Oldest first.
  std::vector<Block> idle_, waiting_;
  std::unordered_map<cl_mem, Pinned> pinned_;
  cl_int release_failure_ = kSuccess;
};

}  // namespace ddimcache::opencl
