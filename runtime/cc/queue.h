// One in-order command queue with bounded depth, and the profile of what ran on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "opencl_api.h"
#include "profile.h"

namespace ddimcache::opencl {

// Whether the calling thread makes a recording (recording.h).
inline thread_local bool recording_now = false;

// Throws RuntimeError while the calling thread makes a recording (recording.h), which `what` cannot be part
// of.
void RefuseWhileRecording(const std::string& what);

class Queue {
 public:
  // `hints` are properties for clCreateCommandQueueWithProperties, in pairs; a driver that refuses them gets
  // none, and a line on standard error says so. Throws RuntimeError when the driver refuses to make the
  // queue.
  Queue(const Api& api, cl_context context, cl_device_id device, cl_platform_id platform,
        std::string device_text, std::vector<cl_ulong> hints);

  // Calls `enqueue(cl_command_queue, cl_event*)`, which enqueues exactly one command and passes the event
  // pointer (often null) on to OpenCL. `label` names the command in a profile. Returns the command's error
  // code; does not throw for it, because the caller knows better what the command was. Throws RuntimeError
  // while the calling thread makes a recording.
  template <typename Enqueue>
  cl_int Submit(const std::string& label, Enqueue&& enqueue);

  // Calls `enqueue(cl_event*)`, which enqueues `commands` commands at once on the queue that plain()
  // returned. Does not call it and returns nothing while a profile runs, which times commands one by one.
  template <typename Enqueue>
  std::optional<cl_int> SubmitMany(uint64_t commands, Enqueue&& enqueue);

  // The queue that is in use while no profile runs; for preparing what SubmitMany enqueues.
  cl_command_queue plain() const { return plain_; }

  // Waits until everything enqueued so far has run.
  void Finish();

  // Commands are counted when their enqueueing has returned. The queue is in order, so whoever is done with
  // something at a count of n may give it away once n are known to have run; this needs no event and no wait.
  uint64_t enqueued() const { return enqueued_.load(); }
  uint64_t finished() const { return finished_.load(); }
  bool busy() const { return enqueued() != finished(); }

  // The first `count` commands have run: told by whoever saw it, such as a copy that blocked.
  void NoteFinished(uint64_t count);

  // Profiling needs a queue that OpenCL made for it; these two swap queues when everything has run. Starting
  // twice forgets what the first start recorded.
  void ProfileStart();
  Profile ProfileStop();

  uint64_t launches() const { return launches_; }
  void CountLaunches(uint64_t count) { launches_.fetch_add(count, std::memory_order_relaxed); }

 private:
  // Without a flush some drivers hold commands back; without a wait some keep every one of a long run in
  // memory until they die. Every kFlushInterval commands are flushed, and every kWaitInterval commands the
  // host waits for the ones enqueued kWaitInterval before: at most two intervals are in flight, and the
  // device never idles for the wait.
  static constexpr uint64_t kFlushInterval = 32;
  static constexpr uint64_t kWaitInterval = 256;

  // What the bound asks for after a number of commands, and how many were enqueued before them.
  struct Bound {
    bool flush, wait;
    uint64_t enqueued_before;
  };
  Bound Count(uint64_t commands);

  cl_command_queue Make(cl_bitfield properties);
  void FinishLocked();
  // Keeps the bound; `event` is given where it asks for a wait.
  cl_int Keep(Bound bound, cl_event event);
  void Throttle(cl_event event, uint64_t enqueued_before);

  const Api& api_;
  cl_context context_;
  cl_device_id device_;
  cl_platform_id platform_;
  std::string device_text_;
  std::vector<cl_ulong> hints_;

  // Shared by every command, exclusive while the queue underneath is swapped.
  std::shared_mutex swap_mutex_;
  cl_command_queue plain_ = nullptr;
  cl_command_queue active_ = nullptr;
  std::unique_ptr<Profiler> profiler_;

  std::atomic<uint64_t> commands_{0};
  std::atomic<uint64_t> launches_{0};
  // How many commands were enqueued, and how many of the first are known to have run.
  std::atomic<uint64_t> enqueued_{0}, finished_{0};
  std::mutex throttle_mutex_;
  cl_event previous_ = nullptr;
  uint64_t enqueued_before_previous_ = 0;
};

inline Queue::Bound Queue::Count(uint64_t commands) {
  const uint64_t before = commands_.fetch_add(commands, std::memory_order_relaxed), after = before + commands;
  return {before / kFlushInterval != after / kFlushInterval, before / kWaitInterval != after / kWaitInterval,
          enqueued_.load()};
}

template <typename Enqueue>
cl_int Queue::Submit(const std::string& label, Enqueue&& enqueue) {
  if (recording_now) [[unlikely]]
    RefuseWhileRecording("the command \"" + label + "\"");
  std::shared_lock lock(swap_mutex_);
  const Bound bound = Count(1);
  cl_event event = nullptr;
  const cl_int code = enqueue(active_, bound.wait || profiler_ != nullptr ? &event : nullptr);
  enqueued_.fetch_add(1);
  if (code != kSuccess) return code;
  if (profiler_ != nullptr) {
    if (bound.wait) api_.clRetainEvent(event);
    profiler_->Record(label, event);
  }
  return Keep(bound, event);
}

template <typename Enqueue>
std::optional<cl_int> Queue::SubmitMany(uint64_t commands, Enqueue&& enqueue) {
  std::shared_lock lock(swap_mutex_);
  if (profiler_ != nullptr) return std::nullopt;
  const Bound bound = Count(commands);
  cl_event event = nullptr;
  const cl_int code = enqueue(bound.wait ? &event : nullptr);
  enqueued_.fetch_add(1);
  return code == kSuccess ? Keep(bound, event) : code;
}

}  // namespace ddimcache::opencl
