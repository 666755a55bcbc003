// A driver lists an extension; whether it works, and is worth it, shows only when it is used. There are
// phones on which a recordable queue takes a quarter of the time of single launches, and some on which it
// takes three times.

#include <tvm/ffi/error.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <vector>

#include "program.h"
#include "replay.h"

namespace ddimcache::opencl {
namespace {

constexpr const char* kName = "ddimcache_replay_check";
// Every launch depends on the one before, so that one left out, doubled or out of order shows.
constexpr const char* kSource =
    "__kernel void ddimcache_replay_check(__global uint* value, uint addend) {\n"
    "  value[0] = value[0] * 3u + addend;\n"
    "}\n";
constexpr size_t kLaunches = 48;
constexpr size_t kRounds = 5;

// What the check makes of OpenCL, released at its end.
class Sample {
 public:
  explicit Sample(Device& device) : device_(device), queue_(device.queue().plain()) {
    const Api& api = device.api;
    const std::string subject = std::string("of kernel \"") + kName + "\" on " + device.Describe();
    cl_int code = kSuccess;
    try {
      program_ = BuildProgram(device, kName, kSource);
      buffer_ = api.clCreateBuffer(device.context(), kMemReadWrite, sizeof(cl_uint), nullptr, &code);
      Check(code, "clCreateBuffer", subject);
      auto signature = std::make_shared<KernelSignature>();
      signature->name = kName;
      signature->arguments = {{ArgumentKind::kBuffer, sizeof(cl_mem)}, {ArgumentKind::kInteger, 4}};
      for (cl_uint i = 0; i < kLaunches; ++i) {
        RecordedLaunch& launch = launches_.emplace_back();
        launch.signature = signature;
        launch.kernel = api.clCreateKernel(program_, kName, &code);
        Check(code, "clCreateKernel", subject);
        Check(api.clSetKernelArg(launch.kernel, 0, sizeof(buffer_), &buffer_), "clSetKernelArg", subject);
        Check(api.clSetKernelArg(launch.kernel, 1, sizeof(i), &i), "clSetKernelArg", subject);
      }
    } catch (...) {
      Release();
      throw;
    }
  }
  ~Sample() { Release(); }
  Sample(const Sample&) = delete;
  Sample& operator=(const Sample&) = delete;

  const std::vector<RecordedLaunch>& launches() const { return launches_; }

  cl_int EnqueueOneByOne() const {
    for (const RecordedLaunch& launch : launches_) {
      const cl_int code = device_.api.clEnqueueNDRangeKernel(queue_, launch.kernel, 1, nullptr, launch.global,
                                                             launch.local, 0, nullptr, nullptr);
      if (code != kSuccess) return code;
    }
    return kSuccess;
  }

  // Seconds that `enqueue`, twice, and what it enqueues take. Throws where the value afterwards is not what
  // both runs of all launches make of `start`.
  template <typename Enqueue>
  double Time(cl_uint start, const char* call, Enqueue enqueue) const {
    const Api& api = device_.api;
    const std::string on = "on " + device_.Describe();
    Check(api.clEnqueueWriteBuffer(queue_, buffer_, kBlocking, 0, sizeof(start), &start, 0, nullptr, nullptr),
          "clEnqueueWriteBuffer", on);
    const auto begin = std::chrono::steady_clock::now();
    for (int run = 0; run < 2; ++run) Check(enqueue(), call, on);
    Check(api.clFinish(queue_), "clFinish", on);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    cl_uint found = 0, expected = start;
    Check(api.clEnqueueReadBuffer(queue_, buffer_, kBlocking, 0, sizeof(found), &found, 0, nullptr, nullptr),
          "clEnqueueReadBuffer", on);
    for (size_t i = 0; i < 2 * kLaunches; ++i) expected = expected * 3 + static_cast<cl_uint>(i % kLaunches);
    if (found != expected) {
      TVM_FFI_THROW(RuntimeError) << call << " " << on << " computed " << found << " instead of " << expected;
    }
    return seconds.count();
  }

 private:
  void Release() {
    for (const RecordedLaunch& launch : launches_) {
      if (launch.kernel != nullptr) device_.api.clReleaseKernel(launch.kernel);
    }
    if (buffer_ != nullptr) device_.api.clReleaseMemObject(buffer_);
    if (program_ != nullptr) device_.api.clReleaseProgram(program_);
  }

  Device& device_;
  const cl_command_queue queue_;
  cl_program program_ = nullptr;
  cl_mem buffer_ = nullptr;
  std::vector<RecordedLaunch> launches_;
};

double Median(std::array<double, kRounds> values) {
  std::sort(values.begin(), values.end());
  return values[kRounds / 2];
}

}  // namespace

double CheckReplayMethod(Device& device, ReplayMethod& method) {
  const Sample sample(device);
  const size_t most = std::min(method.most_launches(), kLaunches);
  std::vector<std::unique_ptr<PreparedLaunches>> parts;
  for (size_t begin = 0; begin < kLaunches; begin += most) {
    const size_t count = std::min(most, kLaunches - begin);
    parts.push_back(method.Prepare(std::span(sample.launches()).subspan(begin, count)));
  }
  const auto one_by_one = [&] { return sample.EnqueueOneByOne(); };
  const auto prepared = [&] {
    for (const auto& part : parts) {
      if (const cl_int code = part->Enqueue(nullptr); code != kSuccess) return code;
    }
    return kSuccess;
  };
  // The first run of a kernel may compile it.
  sample.Time(1, "clEnqueueNDRangeKernel", one_by_one);
  sample.Time(2, method.name(), prepared);
  std::array<double, kRounds> single, together;
  for (size_t round = 0; round < kRounds; ++round) {
    single[round] = sample.Time(static_cast<cl_uint>(round), "clEnqueueNDRangeKernel", one_by_one);
    together[round] = sample.Time(static_cast<cl_uint>(round), method.name(), prepared);
  }
  return Median(together) / Median(single);
}

}  // namespace ddimcache::opencl
