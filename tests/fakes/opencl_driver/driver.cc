// An OpenCL library with one device that says what FAKE_PLATFORM, FAKE_DEVICE and FAKE_DRIVER_VERSION want,
// and that builds a program as a word in its source wants: DRIVER_CRASHES, DRIVER_HANGS, DRIVER_REFUSES,
// DRIVER_PRINTS; FAKE_PRIVATE_BYTES is what a kernel whose source has the word SPILLS takes. Binaries are
// "binary of " and the source; FAKE_BINARIES=none hands out none, =refused takes none back. Nothing is
// computed.

#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "opencl_types.h"

using namespace ddimcache::opencl;

namespace {

struct Program {
  std::string source;
  int references = 1;
};

const char* Setting(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

cl_int Answer(const void* value, size_t size, size_t room, void* out, size_t* needed) {
  if (needed != nullptr) *needed = size;
  if (out == nullptr) return kSuccess;
  if (room < size) return -30;
  std::memcpy(out, value, size);
  return kSuccess;
}

cl_int AnswerText(const char* text, size_t room, void* out, size_t* needed) {
  return Answer(text, std::strlen(text) + 1, room, out, needed);
}

template <typename Value>
cl_int AnswerNumber(Value value, size_t room, void* out, size_t* needed) {
  return Answer(&value, sizeof(value), room, out, needed);
}

Program* AsProgram(cl_program program) {
  return reinterpret_cast<Program*>(program);
}

bool Has(const std::string& text, const char* word) {
  return text.find(word) != std::string::npos;
}

int handle;
const std::string kBinaryPrefix = "binary of ";

template <typename Handle>
Handle Some() {
  return reinterpret_cast<Handle>(&handle);
}

}  // namespace

extern "C" {

cl_int clGetPlatformIDs(cl_uint room, cl_platform_id* platforms, cl_uint* count) {
  if (count != nullptr) *count = 1;
  if (room > 0 && platforms != nullptr) platforms[0] = Some<cl_platform_id>();
  return kSuccess;
}

cl_int clGetPlatformInfo(cl_platform_id, cl_uint what, size_t room, void* out, size_t* needed) {
  const char* text = what == kPlatformName ? Setting("FAKE_PLATFORM", "Fake Platform") : "OpenCL 3.0 fake";
  return AnswerText(text, room, out, needed);
}

cl_int clGetDeviceIDs(cl_platform_id, cl_bitfield, cl_uint room, cl_device_id* devices, cl_uint* count) {
  if (count != nullptr) *count = 1;
  if (room > 0 && devices != nullptr) devices[0] = Some<cl_device_id>();
  return kSuccess;
}

cl_int clGetDeviceInfo(cl_device_id, cl_uint what, size_t room, void* out, size_t* needed) {
  switch (what) {
    case kDeviceName:
      return AnswerText(Setting("FAKE_DEVICE", "Fake Device"), room, out, needed);
    case kDeviceVendor:
      return AnswerText("Nobody", room, out, needed);
    case kDriverVersion:
      return AnswerText(Setting("FAKE_DRIVER_VERSION", "1.0"), room, out, needed);
    case kDeviceVersion:
      return AnswerText("OpenCL 3.0 fake", room, out, needed);
    case kDeviceExtensions:
      return AnswerText("", room, out, needed);
    case kDeviceType:
      return AnswerNumber<cl_bitfield>(kDeviceTypeGpu, room, out, needed);
    case kDeviceMaxWorkGroupSize:
      return AnswerNumber<size_t>(1024, room, out, needed);
    case kDeviceMaxWorkItemDimensions:
      return AnswerNumber<cl_uint>(3, room, out, needed);
    case kDeviceMaxWorkItemSizes: {
      const size_t sizes[3] = {1024, 1024, 64};
      return Answer(sizes, sizeof(sizes), room, out, needed);
    }
    case kDeviceGlobalMemSize:
    case kDeviceMaxMemAllocSize:
      return AnswerNumber<cl_ulong>(1 << 30, room, out, needed);
    default:
      return -30;
  }
}

cl_context clCreateContext(const intptr_t*, cl_uint, const cl_device_id*,
                           void (*)(const char*, const void*, size_t, void*), void*, cl_int* code) {
  *code = kSuccess;
  return Some<cl_context>();
}

cl_command_queue clCreateCommandQueue(cl_context, cl_device_id, cl_bitfield, cl_int* code) {
  *code = kSuccess;
  return Some<cl_command_queue>();
}

cl_program clCreateProgramWithSource(cl_context, cl_uint, const char** texts, const size_t* lengths,
                                     cl_int* code) {
  *code = kSuccess;
  return reinterpret_cast<cl_program>(new Program{std::string(texts[0], lengths[0])});
}

cl_program clCreateProgramWithBinary(cl_context, cl_uint, const cl_device_id*, const size_t* sizes,
                                     const unsigned char** binaries, cl_int* status, cl_int* code) {
  const std::string binary(reinterpret_cast<const char*>(binaries[0]), sizes[0]);
  const bool good =
      binary.starts_with(kBinaryPrefix) && std::strcmp(Setting("FAKE_BINARIES", ""), "refused") != 0;
  *status = *code = good ? kSuccess : -42;
  if (!good) return nullptr;
  return reinterpret_cast<cl_program>(new Program{binary});
}

cl_int clBuildProgram(cl_program program, cl_uint, const cl_device_id*, const char*,
                      void (*)(cl_program, void*), void*) {
  const std::string& source = AsProgram(program)->source;
  if (source.starts_with(kBinaryPrefix)) return kSuccess;
  if (Has(source, "DRIVER_PRINTS")) std::puts("chatter of the driver"), std::fflush(stdout);
  if (Has(source, "DRIVER_CRASHES")) std::raise(SIGSEGV);
  if (Has(source, "DRIVER_EXITS")) ::_exit(7);
  while (Has(source, "DRIVER_HANGS")) ::pause();
  return Has(source, "DRIVER_REFUSES") ? -11 : kSuccess;
}

cl_int clGetProgramBuildInfo(cl_program, cl_device_id, cl_uint, size_t room, void* out, size_t* needed) {
  return AnswerText("the log of the fake driver", room, out, needed);
}

cl_int clGetProgramInfo(cl_program program, cl_uint what, size_t room, void* out, size_t* needed) {
  const std::string binary = kBinaryPrefix + AsProgram(program)->source;
  const bool none = std::strcmp(Setting("FAKE_BINARIES", ""), "none") == 0;
  if (what == kProgramBinarySizes) return AnswerNumber<size_t>(none ? 0 : binary.size(), room, out, needed);
  if (what != kProgramBinaries) return -30;
  std::memcpy(*static_cast<unsigned char**>(out), binary.data(), binary.size());
  return kSuccess;
}

cl_int clRetainProgram(cl_program program) {
  ++AsProgram(program)->references;
  return kSuccess;
}

cl_int clReleaseProgram(cl_program program) {
  if (--AsProgram(program)->references == 0) delete AsProgram(program);
  return kSuccess;
}

cl_kernel clCreateKernel(cl_program program, const char*, cl_int* code) {
  *code = kSuccess;
  // The kernel's program outlives it here, as it does in the plug-in.
  return reinterpret_cast<cl_kernel>(program);
}

cl_int clGetKernelWorkGroupInfo(cl_kernel kernel, cl_device_id, cl_uint what, size_t room, void* out,
                                size_t* needed) {
  if (what == kKernelWorkGroupSize) return AnswerNumber<size_t>(256, room, out, needed);
  const bool spills = Has(reinterpret_cast<Program*>(kernel)->source, "SPILLS");
  const auto bytes = static_cast<cl_ulong>(spills ? std::atol(Setting("FAKE_PRIVATE_BYTES", "512")) : 0);
  return AnswerNumber<cl_ulong>(what == kKernelPrivateMemSize ? bytes : 0, room, out, needed);
}

}  // extern "C"
