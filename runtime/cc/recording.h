// A sequence of launches and copies, recorded once and run again and again.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "replay.h"

namespace ddimcache::opencl {

// A copy on the device. `enqueue` holds all that it needs by value; call and bytes are for error messages.
struct RecordedCopy {
  const char* label;
  const char* call;
  size_t bytes;
  std::function<cl_int(cl_command_queue, cl_event*)> enqueue;
};

// What was recorded is launched with the same buffers and numbers every time: contents of buffers may change
// between replays, and Update changes arguments. A recording keeps its kernels and buffers: a buffer stays in
// use while the recording lives, also after its tensor was freed. Thread-safe; replays of one recording take
// turns.
class Recording {
 public:
  // Calls `function`. Launches and copies between buffers of `device` that this thread submits meanwhile are
  // recorded and do not run. Memory may be allocated and freed; copies from and to the host, and launches on
  // another device, throw RuntimeError there. Throws whatever `function` throws, and then nothing is kept;
  // RuntimeError when this thread records already; as ReplaySelection::Get.
  //
  // Memory that is allocated and freed meanwhile is given out again meanwhile. Recordings with the same
  // `arena`, which is nothing but a name, give it out to each other as well: what one of them leaves is lost
  // when another one is replayed, but for what was still in use when that one was recorded. They have to be
  // replayed by one thread at a time.
  static std::unique_ptr<Recording> Record(Device& device, const std::function<void()>& function,
                                           const void* arena = nullptr);

  // Waits for replays that still run.
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  // Enqueues everything once more, in order with what other calls enqueue; does not wait. While a profile
  // runs, every launch is enqueued and timed by itself. Throws RuntimeError with the driver's error.
  void Replay();

  // Gives launch `launch` (counted from 0, without copies) another argument from the next replay on. `value`
  // is a number or, for a buffer, its handle. Throws IndexError for what was not recorded, ValueError as a
  // launch.
  void Update(size_t launch, size_t argument, const TVMFFIAny& value);

  size_t launches() const { return launches_.size(); }
  size_t copies() const { return copies_.size(); }

  // {"method", "launches", "copies", "calls"}: calls are those that one replay makes to the driver.
  std::string ToJson();

  // The recording that this thread is making, or null.
  static Recording* Current();

  Device& device() const { return device_; }
  const void* arena() const { return arena_; }

  // For those who allocate: `memory` is new, or given out again, and is given out by the name of `arena`.
  void NoteAllocation(cl_mem memory, const void* arena) { allocated_[memory] = arena; }

  // For those who submit: adds a command to the recording, which pins the memory that it uses and takes
  // the kernel object over. Both throw RuntimeError where the command is for another device.
  void AddLaunch(Device& device, RecordedLaunch launch, std::span<const cl_mem> memory);
  void AddCopy(Device& device, RecordedCopy copy, std::span<const cl_mem> memory);

 private:
  // Launches begin … end - 1, or where they are none, the copy.
  struct Step {
    size_t begin = 0, end = 0, copy = 0;
    std::unique_ptr<PreparedLaunches> prepared;
    bool is_copy() const { return begin == end; }
  };

  Recording(Device& device, const void* arena) : device_(device), arena_(arena != nullptr ? arena : this) {}

  // Pins it, once.
  void Keep(cl_mem memory);
  // Joins launches that follow each other into stretches.
  void Plan();
  void Prepare();
  void GiveUp(const std::string& reason);
  void ReplayLaunches(Step& step);
  void ReplayCopy(const RecordedCopy& copy);

  Device& device_;
  const void* const arena_;
  std::mutex mutex_;
  std::shared_ptr<ReplayMethod> method_;
  std::vector<RecordedLaunch> launches_;
  std::vector<RecordedCopy> copies_;
  std::vector<Step> steps_;
  // What the launches use, and what was allocated while they were recorded: only that may be given out again,
  // because replays find nothing in it that came from elsewhere.
  std::unordered_set<cl_mem> memory_;
  std::unordered_map<cl_mem, const void*> allocated_;
  bool replayed_ = false;
};

}  // namespace ddimcache::opencl
