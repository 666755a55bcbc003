#include "compute_device.h"

#include <tvm/runtime/device_api.h>
#include <tvm/runtime/memory/memory_manager.h>
#include <unistd.h>

#include <charconv>
#include <fstream>
#include <utility>

#include "session.h"

namespace ddimcache::session {
namespace {

constexpr const char* kDoctor =
    "`ddimcache devices` lists what is there, `ddimcache doctor` says what is missing";

[[noreturn]] void Refuse(const std::string& device, const std::string& problem, const std::string& remedy) {
  throw Failure("DeviceError", problem, "device " + device, remedy);
}

}  // namespace

ComputeDevice::ComputeDevice(const std::string& text, const std::string& kind)
    : name_(text.empty() ? kind : text) {
  const size_t colon = name_.find(':');
  const std::string found = name_.substr(0, colon);
  int index = 0;
  if (colon != std::string::npos) {
    const char* end = name_.data() + name_.size();
    const auto [stop, error] = std::from_chars(name_.data() + colon + 1, end, index);
    if (error != std::errc() || stop != end || index < 0) Refuse(name_, "is not known", kDoctor);
  }
  if ((found != "opencl" && found != "llvm") || (found == "llvm" && index != 0)) {
    Refuse(name_, "is not known", "use opencl, opencl:1 or llvm");
  }
  if (found != kind) {
    Refuse(name_, "the bundle was compiled for " + kind,
           "run it with --device " + kind + ", or compile it with another --target");
  }
  if (found == "llvm") return;
  const auto& devices = opencl::Device::All();
  if (static_cast<size_t>(index) >= devices.size()) Refuse(name_, "is not there", kDoctor);
  opencl_ = devices[static_cast<size_t>(index)].get();
  handle_ = {kDLOpenCL, index};
}

void ComputeDevice::MakeCurrent() const {
  tvm::runtime::DeviceAPI::Get(handle_)->SetDevice(handle_);
}

void ComputeDevice::Synchronise() const {
  if (opencl_ != nullptr) opencl_->Synchronise();
}

void ComputeDevice::ReleaseIdle() const {
  if (opencl_ != nullptr) {
    opencl_->memory.ReleaseIdle();
    opencl_->Synchronise();
  } else {
    using namespace tvm::runtime::memory;
    MemoryManager::GetOrCreateAllocator(handle_, kPooled)->Clear();
  }
}

void ComputeDevice::SetBudget(uint64_t bytes) const {
  if (opencl_ != nullptr) opencl_->memory.SetBudget(bytes);
}

uint64_t ComputeDevice::memory_bytes() const {
  if (opencl_ != nullptr) return opencl_->info.global_mem_bytes;
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

uint64_t ComputeDevice::peak_bytes() const {
  if (opencl_ != nullptr) return opencl_->memory.Use().peak;
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    uint64_t kibibytes = 0;
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes * 1024;
  }
  return 0;
}

void ComputeDevice::ResetPeak() const {
  if (opencl_ != nullptr) {
    opencl_->memory.ResetPeak();
  } else {
    // Linux: the peak starts again from what the process keeps now. Elsewhere it stays.
    std::ofstream("/proc/self/clear_refs") << "5";
  }
}

Marker::Marker(const ComputeDevice& device) : device_(device.opencl()) {
  if (device_ == nullptr) return;
  const opencl::Api& api = device_->api;
  before_ = device_->queue().enqueued();
  const opencl::cl_int code = device_->queue().Submit(
      "marker of a step", [&](opencl::cl_command_queue queue, opencl::cl_event* event) {
        const opencl::cl_int result = api.clEnqueueMarkerWithWaitList(queue, 0, nullptr, &event_);
        if (event != nullptr && result == opencl::kSuccess) {
          // The queue gives its copy back by itself.
          api.clRetainEvent(event_);
          *event = event_;
        }
        // Whoever waits on another thread does not flush.
        return result == opencl::kSuccess ? api.clFlush(queue) : result;
      });
  opencl::Check(code, "clEnqueueMarkerWithWaitList", "on " + device_->Describe());
}

Marker::~Marker() {
  if (event_ != nullptr) device_->api.clReleaseEvent(event_);
}

Marker::Marker(Marker&& other) noexcept
    : device_(other.device_), event_(std::exchange(other.event_, nullptr)), before_(other.before_) {}

void Marker::Wait() {
  if (event_ == nullptr) return;
  opencl::Check(device_->api.clWaitForEvents(1, &event_), "clWaitForEvents", "on " + device_->Describe());
  device_->queue().NoteFinished(before_);
}

}  // namespace ddimcache::session
