// One in-order command queue with bounded depth, and the profile of what ran on it.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>

#include "opencl_api.h"
#include "profile.h"

namespace ddimcache::opencl {

class Queue {
 public:
  // Throws RuntimeError when the driver refuses to make the queue.
  Queue(const Api& api, cl_context context, cl_device_id device, std::string device_text);

  // Calls `enqueue(cl_command_queue, cl_event*)`, which enqueues exactly one command and passes the event
  // pointer (often null) on to OpenCL. `label` names the command in a profile. Returns the command's error
  // code; does not throw for it, because the caller knows better what the command was.
  template <typename Enqueue>
  cl_int Submit(const std::string& label, Enqueue&& enqueue);

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
  void CountLaunch() { launches_.fetch_add(1, std::memory_order_relaxed); }

 private:
  // Without a flush some drivers hold commands back; without a wait some keep every one of a long run in
  // memory until they die. Every kFlushInterval commands are flushed, and every kWaitInterval commands the
  // host waits for the ones enqueued kWaitInterval before: at most two intervals are in flight, and the
  // device never idles for the wait.
  static constexpr uint64_t kFlushInterval = 32;
  static constexpr uint64_t kWaitInterval = 256;

  cl_command_queue Make(cl_bitfield properties);
  void FinishLocked();
  void Throttle(cl_event event, uint64_t enqueued_before);

  const Api& api_;
  cl_context context_;
  cl_device_id device_;
  std::string device_text_;

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

template <typename Enqueue>
cl_int Queue::Submit(const std::string& label, Enqueue&& enqueue) {
  std::shared_lock lock(swap_mutex_);
  const uint64_t command = commands_.fetch_add(1, std::memory_order_relaxed) + 1;
  const bool throttle = command % kWaitInterval == 0;
  const uint64_t enqueued_before = throttle ? enqueued_.load() : 0;
  cl_event event = nullptr;
  const cl_int code = enqueue(active_, throttle || profiler_ != nullptr ? &event : nullptr);
  enqueued_.fetch_add(1);
  if (code != kSuccess) return code;
  if (profiler_ != nullptr) {
    if (throttle) api_.clRetainEvent(event);
    profiler_->Record(label, event);
  }
  if (throttle) {
    Throttle(event, enqueued_before);
  } else if (command % kFlushInterval == 0) {
    return api_.clFlush(active_);
  }
  return kSuccess;
}

}  // namespace ddimcache::opencl
