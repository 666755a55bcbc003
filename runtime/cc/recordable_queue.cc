// Replays by cl_qcom_recordable_queues.

#include <map>
#include <utility>

#include "opencl_extensions.h"
#include "replay.h"

namespace ddimcache::opencl {
namespace {

// The entry points, and the queue that takes recordings, one at a time.
struct Recorder {
#define DDIMCACHE_DECLARE(name, result, parameters) result(DDIMCACHE_CL_CALL* name) parameters = nullptr;
  DDIMCACHE_CL_RECORDABLE_QUEUE_FUNCTIONS(DDIMCACHE_DECLARE)
#undef DDIMCACHE_DECLARE

  explicit Recorder(Device& device) : device(device) {}
  ~Recorder() {
    if (recordable != nullptr) device.api.clReleaseCommandQueue(recordable);
  }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Returns the name that is missing, or null.
  const char* Find() {
#define DDIMCACHE_FIND(name, result, parameters)                  \
  name = reinterpret_cast<result(DDIMCACHE_CL_CALL*) parameters>( \
      device.api.FindOptional(device.platform, #name));           \
  if (name == nullptr) return #name;
    DDIMCACHE_CL_RECORDABLE_QUEUE_FUNCTIONS(DDIMCACHE_FIND)
#undef DDIMCACHE_FIND
    return nullptr;
  }

  Device& device;
  cl_command_queue replays_on = nullptr;
  std::mutex mutex;
  cl_command_queue recordable = nullptr;
};

class QueueRecording final : public PreparedLaunches {
 public:
  QueueRecording(std::shared_ptr<Recorder> recorder, std::span<const RecordedLaunch> launches)
      : recorder_(std::move(recorder)) {
    const Api& api = recorder_->device.api;
    const std::string on = "on " + recorder_->device.Describe();
    std::lock_guard lock(recorder_->mutex);
    cl_int code = kSuccess;
    handle_ = recorder_->clNewRecordingQCOM(recorder_->recordable, &code);
    Check(code, "clNewRecordingQCOM", on);
    for (const RecordedLaunch& launch : launches) {
      code = api.clEnqueueNDRangeKernel(recorder_->recordable, launch.kernel, launch.dimensions, nullptr,
                                        launch.global, launch.local, 0, nullptr, nullptr);
      if (code == kSuccess) continue;
      // The queue takes no other recording before this one has ended.
      recorder_->clEndRecordingQCOM(handle_);
      recorder_->clReleaseRecordingQCOM(handle_);
      ThrowError(code, "clEnqueueNDRangeKernel",
                 "of kernel \"" + launch.signature->name + "\" into a recording " + on);
    }
    code = recorder_->clEndRecordingQCOM(handle_);
    if (code != kSuccess) recorder_->clReleaseRecordingQCOM(handle_);
    Check(code, "clEndRecordingQCOM", on);
  }

  ~QueueRecording() override { recorder_->clReleaseRecordingQCOM(handle_); }

  cl_int Enqueue(cl_event* event) override {
    return recorder_->clEnqueueRecordingQCOM(recorder_->replays_on, handle_, updates_.size(), updates_.data(),
                                             0, nullptr, 0, nullptr, 0, nullptr, 0, nullptr, event);
  }

  // An update holds for one replay, so all of them are passed with every one.
  bool Update(size_t launch, size_t argument, const EncodedArgument& value, size_t bytes) override {
    const std::pair key(launch, argument);
    const auto [entry, fresh] = values_.insert_or_assign(key, value);
    // The map's entries stay where they are, so the pointer of an earlier update still holds.
    if (fresh) {
      updates_.push_back(
          {static_cast<cl_uint>(launch), static_cast<cl_uint>(argument), bytes, &entry->second});
    }
    return true;
  }

 private:
  const std::shared_ptr<Recorder> recorder_;
  cl_recording_qcom handle_ = nullptr;
  std::map<std::pair<size_t, size_t>, EncodedArgument> values_;
  std::vector<ArgumentUpdateQcom> updates_;
};

class RecordableQueueMethod final : public ReplayMethod {
 public:
  RecordableQueueMethod(std::shared_ptr<Recorder> recorder, size_t most_launches)
      : recorder_(std::move(recorder)), most_launches_(most_launches) {}

  const char* name() const override { return "recordable-queue"; }
  size_t most_launches() const override { return most_launches_; }

  std::unique_ptr<PreparedLaunches> Prepare(std::span<const RecordedLaunch> launches) override {
    return std::make_unique<QueueRecording>(recorder_, launches);
  }

 private:
  const std::shared_ptr<Recorder> recorder_;
  const size_t most_launches_;
};

}  // namespace

std::unique_ptr<ReplayMethod> MakeRecordableQueueMethod(Device& device, cl_command_queue queue,
                                                        std::string* reason) {
  if (!device.info.HasExtension("cl_qcom_recordable_queues")) {
    *reason = "has no cl_qcom_recordable_queues";
    return nullptr;
  }
  auto recorder = std::make_shared<Recorder>(device);
  recorder->replays_on = queue;
  if (const char* missing = recorder->Find()) {
    *reason = std::string("lists cl_qcom_recordable_queues, but has no ") + missing;
    return nullptr;
  }
  cl_uint most = 0;
  device.api.clGetDeviceInfo(device.id, kDeviceRecordableQueueMaxSizeQcom, sizeof(most), &most, nullptr);
  if (most < 2) {
    *reason = "records at most " + std::to_string(most) + " launches (CL_DEVICE_RECORDABLE_QUEUE_MAX_SIZE)";
    return nullptr;
  }
  cl_int code = kSuccess;
  recorder->recordable =
      device.api.clCreateCommandQueue(device.context(), device.id, kQueueRecordableQcom, &code);
  if (code != kSuccess) {
    recorder->recordable = nullptr;
    *reason = "makes no recordable queue: " + ErrorName(code) + " in clCreateCommandQueue";
    return nullptr;
  }
  return std::make_unique<RecordableQueueMethod>(std::move(recorder), most);
}

}  // namespace ddimcache::opencl
