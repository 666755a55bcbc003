#include "program.h"

#include <tvm/ffi/error.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "build_process.h"
#include "device_functions.h"
#include "hazards.h"
#include "program_cache.h"
#include "program_file.h"
#include "whole_vectors.h"

namespace ddimcache::opencl {
namespace {

constexpr const char* kOptionsVariable = "DDIMCACHE_OPENCL_BUILD_OPTIONS";

// The order of a sum is the compiler's choice upstream of here, not the driver's, so no fast-math; fusing a
// multiply and an add loses nothing. No -cl-std: a default of OpenCL C 1.2 is what the specification gives,
// and a second -cl-std from the environment would be an error on some drivers.
constexpr const char* kDefaultOptions = "-cl-mad-enable";

std::string BuildLog(const Device& device, cl_program program) {
  size_t bytes = 0;
  if (device.api.clGetProgramBuildInfo(program, device.id, kProgramBuildLog, 0, nullptr, &bytes) !=
      kSuccess) {
    return "(the driver gives no build log)";
  }
  std::string log(bytes, '\0');
  device.api.clGetProgramBuildInfo(program, device.id, kProgramBuildLog, bytes, log.data(), nullptr);
  while (!log.empty() && (log.back() == '\0' || log.back() == '\n')) log.pop_back();
  return log.empty() ? "(the build log is empty)" : log;
}

// A program from a binary that the driver once gave out, or null when the driver does not want it any more.
cl_program FromBinary(Device& device, const std::string& binary, const std::string& options) {
  const size_t bytes = binary.size();
  const auto* data = reinterpret_cast<const unsigned char*>(binary.data());
  cl_int status = kSuccess, code = kSuccess;
  cl_program program =
      device.api.clCreateProgramWithBinary(device.context(), 1, &device.id, &bytes, &data, &status, &code);
  if (code != kSuccess || program == nullptr) return nullptr;
  if (status == kSuccess) {
    code = device.api.clBuildProgram(program, 1, &device.id, options.c_str(), nullptr, nullptr);
    if (code == kSuccess) return program;
  }
  device.api.clReleaseProgram(program);
  return nullptr;
}

// What the driver made of a program that is built, or nothing when it does not say.
std::string TakeBinary(const Device& device, cl_program program) {
  // The context has one device, so the answers are lists of one.
  size_t bytes = 0, needed = 0;
  if (device.api.clGetProgramInfo(program, kProgramBinarySizes, 0, nullptr, &needed) != kSuccess ||
      needed != sizeof(bytes) ||
      device.api.clGetProgramInfo(program, kProgramBinarySizes, sizeof(bytes), &bytes, nullptr) != kSuccess) {
    return "";
  }
  std::string binary(bytes, '\0');
  auto* data = reinterpret_cast<unsigned char*>(binary.data());
  if (bytes == 0 ||
      device.api.clGetProgramInfo(program, kProgramBinaries, sizeof(data), &data, nullptr) != kSuccess) {
    return "";
  }
  return binary;
}

cl_program Compile(Device& device, const std::string& name, const std::string& source,
                   const std::string& options) {
  const std::string subject = "of kernel \"" + name + "\" on " + device.Describe();
  cl_int code = kSuccess;
  const char* text = source.c_str();
  const size_t length = source.size();
  cl_program program = device.api.clCreateProgramWithSource(device.context(), 1, &text, &length, &code);
  Check(code, "clCreateProgramWithSource", subject);
  code = device.api.clBuildProgram(program, 1, &device.id, options.c_str(), nullptr, nullptr);
  if (code == kSuccess) return program;
  const std::string log = BuildLog(device, program);
  device.api.clReleaseProgram(program);
  ThrowError(code, "clBuildProgram",
             subject + " with options \"" + options + "\"\nbuild log:\n" + log + "\n");
}

// Programs whose binaries are to be taken later. Each is there once, and more than that many do not wait: a
// process that loads module after module and never keeps any must not grow.
class WaitingList {
 public:
  void Add(Device& device, const std::string& key, cl_program program) {
    std::lock_guard lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.key == key) return;
    }
    if (entries_.size() >= kMostWaiting) return;
    if (device.api.clRetainProgram(program) == kSuccess) entries_.push_back({&device, key, program});
  }

  bool KeepFirst() {
    Entry entry;
    {
      std::lock_guard lock(mutex_);
      if (entries_.empty()) return false;
      entry = std::move(entries_.front());
      entries_.pop_front();
    }
    // Another process may have been faster.
    if (!FindProgram(entry.key)) KeepProgram(entry.key, TakeBinary(*entry.device, entry.program));
    entry.device->api.clReleaseProgram(entry.program);
    return true;
  }

  uint64_t size() {
    std::lock_guard lock(mutex_);
    return entries_.size();
  }

  static WaitingList& Global() {
    static auto* const list = new WaitingList();
    return *list;
  }

 private:
  static constexpr size_t kMostWaiting = 2048;

  struct Entry {
    Device* device;
    std::string key;
    cl_program program;
  };

  std::mutex mutex_;
  std::deque<Entry> entries_;
};

bool KeepsAtOnce(const Device& device) {
  const char* chosen = std::getenv("DDIMCACHE_PROGRAM_CACHE");
  if (chosen != nullptr && std::strcmp(chosen, "1") == 0) return true;
  return device.info.hazards.Find(Avoidance::kDeferBinaries) == nullptr;
}

// Compiled elsewhere and loaded here. A driver that does not take its own binary back still has its compiler,
// and that has just shown that it survives this source.
cl_program CompileInChild(Device& device, const std::string& key, const std::string& name,
                          const std::string& source, const std::string& options) {
  const std::string binary = BuildInChild(device, name, options, source);
  cl_program program = FromBinary(device, binary, options);
  if (program == nullptr) return Compile(device, name, source, options);
  if (ProgramCacheIsOn()) KeepProgram(key, binary);
  return program;
}

}  // namespace

std::string BuildOptions() {
  std::string options = kDefaultOptions;
  if (const char* more = std::getenv(kOptionsVariable); more != nullptr && *more != '\0') {
    options += " " + std::string(more);
  }
  return options;
}

cl_program BuildProgram(Device& device, const std::string& name, const std::string& generated) {
  WarnOfSource(device.info, device.Describe(), name, generated);
  const bool wholes = device.info.hazards.Find(Avoidance::kWholeVectors) != nullptr;
  const std::string complete = WithDeviceFunctions(device.info, generated);
  const std::string source = wholes ? WithWholeVectors(complete) : complete;
  const std::string options = BuildOptions();
  const std::string key = ProgramKey(device.info, options, source);
  const bool cached = ProgramCacheIsOn();
  if (const std::optional<std::string> binary = cached ? FindProgram(key) : std::nullopt) {
    if (cl_program program = FromBinary(device, *binary, options); program != nullptr) {
      CountProgramHit();
      return program;
    }
  }
  if (cached) CountProgramMiss();
  if (BuildsInChild(device)) return CompileInChild(device, key, name, source, options);
  cl_program program = Compile(device, name, source, options);
  if (cached && KeepsAtOnce(device)) {
    KeepProgram(key, TakeBinary(device, program));
  } else if (cached) {
    WaitingList::Global().Add(device, key, program);
  }
  return program;
}

std::string BuildBinary(Device& device, const std::string& name, const std::string& options,
                        const std::string& source) {
  cl_program program = Compile(device, name, source, options);
  std::string binary = TakeBinary(device, program);
  device.api.clReleaseProgram(program);
  if (binary.empty()) {
    TVM_FFI_THROW(RuntimeError) << "the driver does not hand out the program of kernel \"" << name << "\" on "
                                << device.Describe()
                                << ", so it cannot be built in a child process: set "
                                   "DDIMCACHE_BUILD_IN_CHILD=0";
  }
  return binary;
}

uint64_t KeepPrograms(uint64_t most) {
  while (most-- > 0 && WaitingList::Global().KeepFirst()) {
  }
  return WaitingList::Global().size();
}

uint64_t WaitingPrograms() {
  return WaitingList::Global().size();
}

}  // namespace ddimcache::opencl
