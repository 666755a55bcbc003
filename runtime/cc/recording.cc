#include "recording.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <utility>

#include "json.h"

namespace ddimcache::opencl {
namespace {

thread_local Recording* current = nullptr;

// Makes `recording` the thread's while it lives.
class CurrentScope {
 public:
  explicit CurrentScope(Recording* recording) {
    current = recording;
    recording_now = true;
  }
  ~CurrentScope() {
    current = nullptr;
    recording_now = false;
  }
  CurrentScope(const CurrentScope&) = delete;
  CurrentScope& operator=(const CurrentScope&) = delete;
};

void CheckDevice(const Device& device, const Device& recorded, const std::string& what) {
  if (&device == &recorded) return;
  TVM_FFI_THROW(RuntimeError) << what << " on " << device.Describe() << " cannot be part of a recording on "
                              << recorded.Describe() << ": make one recording a device";
}

}  // namespace

Recording* Recording::Current() {
  return current;
}

std::unique_ptr<Recording> Recording::Record(Device& device, const std::function<void()>& function,
                                             const void* arena) {
  RefuseWhileRecording("a recording");
  std::unique_ptr<Recording> recording(new Recording(device, arena));
  recording->method_ = device.replay().Get();
  {
    const CurrentScope scope(recording.get());
    function();
  }
  recording->Plan();
  recording->Prepare();
  return recording;
}

Recording::~Recording() {
  // Not every driver keeps what running commands use when it is released. An error here is one of the device,
  // which the next call on the queue reports.
  try {
    if (replayed_ && device_.queue().busy()) device_.queue().Finish();
  } catch (const std::exception&) {
  }
  steps_.clear();
  for (const RecordedLaunch& launch : launches_) device_.api.clReleaseKernel(launch.kernel);
  for (cl_mem memory : memory_) device_.memory.Unpin(memory);
}

void Recording::Keep(cl_mem memory) {
  if (memory == nullptr || !memory_.insert(memory).second) return;
  const auto allocated = allocated_.find(memory);
  device_.memory.Pin(memory, allocated != allocated_.end() ? allocated->second : nullptr);
}

void Recording::AddLaunch(Device& device, RecordedLaunch launch, std::span<const cl_mem> memory) {
  // First, so that the kernel object is released whatever follows.
  const RecordedLaunch& added = launches_.emplace_back(std::move(launch));
  CheckDevice(device, device_, "a launch of kernel \"" + added.signature->name + "\"");
  for (cl_mem used : memory) Keep(used);
  steps_.push_back({launches_.size() - 1, launches_.size(), 0, nullptr});
}

void Recording::AddCopy(Device& device, RecordedCopy copy, std::span<const cl_mem> memory) {
  CheckDevice(device, device_, "a copy of " + std::to_string(copy.bytes) + " bytes");
  for (cl_mem used : memory) Keep(used);
  copies_.push_back(std::move(copy));
  steps_.push_back({0, 0, copies_.size() - 1, nullptr});
}

void Recording::Plan() {
  const size_t most = method_ != nullptr ? method_->most_launches() : SIZE_MAX;
  std::vector<Step> joined;
  for (Step& step : std::exchange(steps_, {})) {
    const bool extends = !joined.empty() && !step.is_copy() && !joined.back().is_copy() &&
                         joined.back().end - joined.back().begin < most;
    if (extends) {
      joined.back().end = step.end;
    } else {
      joined.push_back(std::move(step));
    }
  }
  steps_ = std::move(joined);
}

void Recording::Prepare() {
  if (method_ == nullptr) return;
  try {
    for (Step& step : steps_) {
      // One launch is enqueued by one call as it is.
      if (step.prepared != nullptr || step.end - step.begin < 2) continue;
      step.prepared = method_->Prepare(std::span(launches_).subspan(step.begin, step.end - step.begin));
    }
  } catch (const tvm::ffi::Error& error) {
    GiveUp(error.message());
  }
}

void Recording::GiveUp(const std::string& reason) {
  device_.replay().GiveUp(reason);
  if (device_.queue().busy()) device_.queue().Finish();
  for (Step& step : steps_) step.prepared.reset();
  method_.reset();
}

void Recording::Replay() {
  RefuseWhileRecording("the replay of a recording");
  std::lock_guard lock(mutex_);
  Prepare();
  replayed_ = true;
  for (Step& step : steps_) {
    if (step.is_copy()) {
      ReplayCopy(copies_[step.copy]);
    } else {
      ReplayLaunches(step);
    }
  }
}

void Recording::ReplayCopy(const RecordedCopy& copy) {
  const cl_int code = device_.queue().Submit(copy.label, copy.enqueue);
  if (code != kSuccess) {
    ThrowError(code, copy.call,
               "of a recorded copy of " + std::to_string(copy.bytes) + " bytes on " + device_.Describe());
  }
}

void Recording::ReplayLaunches(Step& step) {
  Queue& queue = device_.queue();
  if (step.prepared != nullptr) {
    const uint64_t count = step.end - step.begin;
    const std::optional<cl_int> code =
        queue.SubmitMany(count, [&](cl_event* event) { return step.prepared->Enqueue(event); });
    if (code == kSuccess) {
      queue.CountLaunches(count);
      return;
    }
    // Without a code a profile runs, and launches are timed one by one.
    if (code.has_value()) {
      GiveUp(std::string(method_->name()) + " failed with " + ErrorName(*code) + " when it was replayed");
    }
  }
  for (size_t i = step.begin; i < step.end; ++i) {
    const RecordedLaunch& launch = launches_[i];
    const std::string& name = launch.signature->name;
    const cl_int code = queue.Submit(name, [&](cl_command_queue commands, cl_event* event) {
      return device_.api.clEnqueueNDRangeKernel(commands, launch.kernel, launch.dimensions, nullptr,
                                                launch.global, launch.local, 0, nullptr, event);
    });
    if (code != kSuccess) [[unlikely]] {
      ThrowError(code, "clEnqueueNDRangeKernel",
                 "of recorded kernel \"" + name + "\" on " + device_.Describe());
    }
    queue.CountLaunches(1);
  }
}

void Recording::Update(size_t launch, size_t argument, const TVMFFIAny& value) {
  std::lock_guard lock(mutex_);
  if (launch >= launches_.size()) {
    TVM_FFI_THROW(IndexError) << "launch " << launch << " of a recording that has " << launches_.size();
  }
  const RecordedLaunch& updated = launches_[launch];
  const KernelSignature& signature = *updated.signature;
  if (argument >= signature.arguments.size()) {
    TVM_FFI_THROW(IndexError) << "argument " << argument << " of kernel \"" << signature.name
                              << "\", which takes " << signature.arguments.size();
  }
  const Argument& kind = signature.arguments[argument];
  const bool is_buffer = kind.is_memory();
  const bool fits = is_buffer ? value.type_index == TVMFFITypeIndex::kTVMFFIOpaquePtr ||
                                    value.type_index == TVMFFITypeIndex::kTVMFFINone
                              : value.type_index == TVMFFITypeIndex::kTVMFFIInt ||
                                    value.type_index == TVMFFITypeIndex::kTVMFFIFloat ||
                                    value.type_index == TVMFFITypeIndex::kTVMFFIBool;
  if (!fits) {
    TVM_FFI_THROW(TypeError) << "argument " << argument << " of kernel \"" << signature.name << "\" is a "
                             << (is_buffer ? "buffer" : "number") << ", and cannot become something else";
  }
  const EncodedArgument encoded = EncodeArgument(device_, signature, argument, value);
  if (is_buffer) Keep(BufferOf(signature, value));
  Check(device_.api.clSetKernelArg(updated.kernel, static_cast<cl_uint>(argument), kind.bytes, &encoded),
        "clSetKernelArg",
        "of argument " + std::to_string(argument) + " of recorded kernel \"" + signature.name + "\" on " +
            device_.Describe());
  for (Step& step : steps_) {
    if (step.prepared == nullptr || launch < step.begin || launch >= step.end) continue;
    if (step.prepared->Update(launch - step.begin, argument, encoded, kind.bytes)) continue;
    // Prepared again at the next replay. What was prepared may still run.
    if (device_.queue().busy()) device_.queue().Finish();
    step.prepared.reset();
  }
}

std::string Recording::ToJson() {
  std::lock_guard lock(mutex_);
  uint64_t calls = 0;
  for (const Step& step : steps_) calls += step.prepared || step.is_copy() ? 1 : step.end - step.begin;
  return JsonObject()
      .Add("method", method_ != nullptr ? method_->name() : "plain")
      .Add("launches", static_cast<uint64_t>(launches_.size()))
      .Add("copies", static_cast<uint64_t>(copies_.size()))
      .Add("calls", calls)
      .Finish();
}

}  // namespace ddimcache::opencl
