#include "queue.h"

#include <tvm/ffi/error.h>

#include <utility>

#include "log.h"
#include "opencl_extensions.h"

namespace ddimcache::opencl {

void RefuseWhileRecording(const std::string& what) {
  if (!recording_now) return;
  TVM_FFI_THROW(RuntimeError) << what
                              << " cannot be recorded: only launches and copies on one device can. Do it "
                                 "before the recording is made, or after it was replayed";
}

Queue::Queue(const Api& api, cl_context context, cl_device_id device, cl_platform_id platform,
             std::string device_text, std::vector<cl_ulong> hints)
    : api_(api),
      context_(context),
      device_(device),
      platform_(platform),
      device_text_(std::move(device_text)),
      hints_(std::move(hints)) {
  plain_ = Make(0);
  active_ = plain_;
}

cl_command_queue Queue::Make(cl_bitfield properties) {
  cl_int code = kSuccess;
  const auto create = reinterpret_cast<CreateQueueWithProperties>(
      hints_.empty() ? nullptr : api_.FindOptional(platform_, "clCreateCommandQueueWithProperties"));
  if (create != nullptr) {
    std::vector<cl_ulong> all = {kQueueProperties, properties};
    all.insert(all.end(), hints_.begin(), hints_.end());
    all.push_back(0);
    cl_command_queue queue = create(context_, device_, all.data(), &code);
    if (code == kSuccess) return queue;
    LogLine("priority and throttle hints are left out on " + device_text_ +
            ", which lists them but answers " + ErrorName(code));
    hints_.clear();
  }
  cl_command_queue queue = api_.clCreateCommandQueue(context_, device_, properties, &code);
  Check(code, "clCreateCommandQueue", "for " + device_text_);
  return queue;
}

void Queue::FinishLocked() {
  const uint64_t enqueued = enqueued_.load();
  Check(api_.clFinish(active_), "clFinish", "on " + device_text_);
  NoteFinished(enqueued);
}

void Queue::NoteFinished(uint64_t count) {
  uint64_t known = finished_.load();
  while (known < count && !finished_.compare_exchange_weak(known, count)) {
  }
}

void Queue::Finish() {
  std::shared_lock lock(swap_mutex_);
  FinishLocked();
}

cl_int Queue::Keep(Bound bound, cl_event event) {
  if (bound.wait) {
    Throttle(event, bound.enqueued_before);
  } else if (bound.flush) {
    return api_.clFlush(active_);
  }
  return kSuccess;
}

void Queue::Throttle(cl_event event, uint64_t enqueued_before) {
  cl_event wait_for = nullptr;
  uint64_t run_before = 0;
  {
    std::lock_guard lock(throttle_mutex_);
    wait_for = std::exchange(previous_, event);
    run_before = std::exchange(enqueued_before_previous_, enqueued_before);
  }
  api_.clFlush(active_);
  if (wait_for == nullptr) return;
  // A failed command is reported by the next synchronisation; here only the bound matters.
  if (api_.clWaitForEvents(1, &wait_for) == kSuccess) NoteFinished(run_before);
  api_.clReleaseEvent(wait_for);
}

void Queue::ProfileStart() {
  std::unique_lock lock(swap_mutex_);
  FinishLocked();
  if (profiler_ == nullptr) active_ = Make(kQueueProfilingEnable);
  profiler_ = std::make_unique<Profiler>(api_);
}

Profile Queue::ProfileStop() {
  std::unique_lock lock(swap_mutex_);
  if (profiler_ == nullptr) return {};
  FinishLocked();
  Profile profile = profiler_->Take();
  profiler_.reset();
  api_.clReleaseCommandQueue(std::exchange(active_, plain_));
  return profile;
}

}  // namespace ddimcache::opencl
