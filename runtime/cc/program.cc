#include "program.h"

#include <tvm/ffi/error.h>

#include <cstdlib>
#include <optional>

#include "program_cache.h"

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

}  // namespace

std::string BuildOptions() {
  std::string options = kDefaultOptions;
  if (const char* more = std::getenv(kOptionsVariable); more != nullptr && *more != '\0') {
    options += " " + std::string(more);
  }
  return options;
}

cl_program BuildProgram(Device& device, const std::string& name, const std::string& source) {
  const std::string options = BuildOptions();
  if (!ProgramCacheIsOn()) return Compile(device, name, source, options);
  const std::string key = ProgramKey(device.info, options, source);
  if (const std::optional<std::string> binary = FindProgram(key)) {
    if (cl_program program = FromBinary(device, *binary, options); program != nullptr) {
      CountProgramHit();
      return program;
    }
  }
  CountProgramMiss();
  cl_program program = Compile(device, name, source, options);
  KeepProgram(key, TakeBinary(device, program));
  return program;
}

}  // namespace ddimcache::opencl
