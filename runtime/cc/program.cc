#include "program.h"

#include <tvm/ffi/error.h>

#include <cstdlib>

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

}  // namespace

std::string BuildOptions() {
  std::string options = kDefaultOptions;
  if (const char* more = std::getenv(kOptionsVariable); more != nullptr && *more != '\0') {
    options += " " + std::string(more);
  }
  return options;
}

cl_program BuildProgram(Device& device, const std::string& name, const std::string& source) {
  const std::string subject = "of kernel \"" + name + "\" on " + device.Describe();
  cl_int code = kSuccess;
  const char* text = source.c_str();
  const size_t length = source.size();
  cl_program program = device.api.clCreateProgramWithSource(device.context(), 1, &text, &length, &code);
  Check(code, "clCreateProgramWithSource", subject);
  const std::string options = BuildOptions();
  code = device.api.clBuildProgram(program, 1, &device.id, options.c_str(), nullptr, nullptr);
  if (code == kSuccess) return program;
  const std::string log = BuildLog(device, program);
  device.api.clReleaseProgram(program);
  ThrowError(code, "clBuildProgram",
             subject + " with options \"" + options + "\"\nbuild log:\n" + log + "\n");
}

}  // namespace ddimcache::opencl
