#include "opencl_api.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <array>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace ddimcache::opencl {
namespace {

constexpr const char* kLibraryVariable = "DDIMCACHE_OPENCL_LIBRARY";

// In order of preference. The vendor paths come after the plain names because on Android a plain name is
// resolved inside the caller's linker namespace, which is the right one whenever it works.
constexpr std::array kLibraryNames = {
    "libOpenCL.so.1",
    "libOpenCL.so",
    "/vendor/lib64/libOpenCL.so",
    "/system/vendor/lib64/libOpenCL.so",
    "/system/lib64/libOpenCL.so",
    "/vendor/lib64/egl/libGLES_mali.so",
    "/system/vendor/lib64/egl/libGLES_mali.so",
    "libGLES_mali.so",
    "libOpenCL-pixel.so",
    "libPVROCL.so",
};

using SymbolLookup = void* (*)(const char*);

// Pixel phones hide the symbols behind this pair of functions.
SymbolLookup IndirectLookup(void* library) {
  auto enable = reinterpret_cast<void (*)()>(dlsym(library, "enableOpenCL"));
  auto lookup = reinterpret_cast<SymbolLookup>(dlsym(library, "loadOpenCLPointer"));
  if (enable == nullptr || lookup == nullptr) return nullptr;
  enable();
  return lookup;
}

// Fills `api` from an opened library; returns the first missing name, or null when all are there.
const char* Resolve(void* library, Api* api) {
  if (SymbolLookup indirect = IndirectLookup(library); indirect != nullptr) {
    api->lookup = indirect;
  } else {
    api->lookup = [library](const char* name) { return dlsym(library, name); };
  }
#define DDIMCACHE_RESOLVE(name, result, parameters)                                        \
  api->name = reinterpret_cast<result(DDIMCACHE_CL_CALL*) parameters>(api->lookup(#name)); \
  if (api->name == nullptr) return #name;
  DDIMCACHE_CL_FUNCTIONS(DDIMCACHE_RESOLVE)
#undef DDIMCACHE_RESOLVE
  return nullptr;
}

struct Opened {
  Api api;
  bool found = false;
  std::string reason;
};

Opened* Open() {
  auto* opened = new Opened();
  std::vector<std::string> names;
  // An explicit choice is final: falling back to another library would hide the mistake in it.
  if (const char* chosen = std::getenv(kLibraryVariable); chosen != nullptr && *chosen != '\0') {
    names.emplace_back(chosen);
  } else {
    names.assign(kLibraryNames.begin(), kLibraryNames.end());
  }
  std::string attempts;
  for (const std::string& name : names) {
    void* library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      const char* answer = dlerror();
      attempts += "\n  " + (answer != nullptr ? std::string(answer) : name + ": cannot be opened");
      continue;
    }
    if (const char* missing = Resolve(library, &opened->api)) {
      attempts += "\n  " + name + ": has no " + missing + ", which OpenCL 1.2 requires";
      dlclose(library);
      continue;
    }
    opened->api.library = name;
    opened->found = true;
    return opened;
  }
  opened->reason =
      "no OpenCL library could be opened. Install a driver for the GPU, or PoCL for the CPU (Debian: "
      "apt-get install pocl-opencl-icd ocl-icd-libopencl1; without root: pip install "
      "pocl-binary-distribution pyopencl), or name the library in " +
      std::string(kLibraryVariable) + ". Tried:" + attempts;
  return opened;
}

const Opened& Library() {
  // Never freed: kernels and buffers that outlive main() still release through it.
  static const Opened* const opened = Open();
  return *opened;
}

struct NamedCode {
  cl_int code;
  const char* name;
  const char* hint;
};

constexpr NamedCode kCodes[] = {
    {0, "CL_SUCCESS", ""},
    {-1, "CL_DEVICE_NOT_FOUND", "the driver is installed but offers no device"},
    {-2, "CL_DEVICE_NOT_AVAILABLE", "another process may hold the device"},
    {-3, "CL_COMPILER_NOT_AVAILABLE", "the driver cannot compile source; install its compiler"},
    {-4, "CL_MEM_OBJECT_ALLOCATION_FAILURE", "the device is out of memory for this buffer"},
    {-5, "CL_OUT_OF_RESOURCES",
     "the kernel needs more registers, local memory or buffers than the device has left"},
    {-6, "CL_OUT_OF_HOST_MEMORY", "the driver could not allocate host memory"},
    {-7, "CL_PROFILING_INFO_NOT_AVAILABLE", "the queue was made without profiling"},
    {-8, "CL_MEM_COPY_OVERLAP", "source and target of the copy overlap"},
    {-9, "CL_IMAGE_FORMAT_MISMATCH", "both images must have one format"},
    {-10, "CL_IMAGE_FORMAT_NOT_SUPPORTED", "the device has no image of this data type"},
    {-11, "CL_BUILD_PROGRAM_FAILURE", "the build log says why"},
    {-12, "CL_MAP_FAILURE", "the buffer cannot be mapped into host memory"},
    {-13, "CL_MISALIGNED_SUB_BUFFER_OFFSET", "the offset must be a multiple of the base address alignment"},
    {-14, "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST", "an earlier command on this queue failed"},
    {-15, "CL_COMPILE_PROGRAM_FAILURE", "the build log says why"},
    {-16, "CL_LINKER_NOT_AVAILABLE", "the driver has no linker"},
    {-17, "CL_LINK_PROGRAM_FAILURE", "the build log says why"},
    {-18, "CL_DEVICE_PARTITION_FAILED", ""},
    {-19, "CL_KERNEL_ARG_INFO_NOT_AVAILABLE", ""},
    {-30, "CL_INVALID_VALUE", "an argument of the call is out of range"},
    {-31, "CL_INVALID_DEVICE_TYPE", ""},
    {-32, "CL_INVALID_PLATFORM", ""},
    {-33, "CL_INVALID_DEVICE", ""},
    {-34, "CL_INVALID_CONTEXT", ""},
    {-35, "CL_INVALID_QUEUE_PROPERTIES", "the device has no such queue"},
    {-36, "CL_INVALID_COMMAND_QUEUE", "the device may have been reset after an earlier failure"},
    {-37, "CL_INVALID_HOST_PTR", ""},
    {-38, "CL_INVALID_MEM_OBJECT", "the buffer was freed, or belongs to another device"},
    {-39, "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR", "the device has no image of this data type"},
    {-40, "CL_INVALID_IMAGE_SIZE",
     "the image is larger than the device allows; `ddimcache devices` lists limits"},
    {-41, "CL_INVALID_SAMPLER", ""},
    {-42, "CL_INVALID_BINARY", "the stored program was made for another device or driver"},
    {-43, "CL_INVALID_BUILD_OPTIONS", "read DDIMCACHE_OPENCL_BUILD_OPTIONS"},
    {-44, "CL_INVALID_PROGRAM", ""},
    {-45, "CL_INVALID_PROGRAM_EXECUTABLE", "the program was not built for this device"},
    {-46, "CL_INVALID_KERNEL_NAME", "the source defines no kernel of this name"},
    {-47, "CL_INVALID_KERNEL_DEFINITION", "the kernel differs between devices"},
    {-48, "CL_INVALID_KERNEL", ""},
    {-49, "CL_INVALID_ARG_INDEX", "the kernel takes fewer arguments than its signature says"},
    {-50, "CL_INVALID_ARG_VALUE", "an argument has the wrong kind"},
    {-51, "CL_INVALID_ARG_SIZE", "an argument's size differs from the kernel's declaration"},
    {-52, "CL_INVALID_KERNEL_ARGS", "an argument was not set"},
    {-53, "CL_INVALID_WORK_DIMENSION", "between 1 and 3 dimensions are possible"},
    {-54, "CL_INVALID_WORK_GROUP_SIZE", "the work-group is larger than this kernel or device allows"},
    {-55, "CL_INVALID_WORK_ITEM_SIZE", "one side of the work-group is larger than the device allows"},
    {-56, "CL_INVALID_GLOBAL_OFFSET", ""},
    {-57, "CL_INVALID_EVENT_WAIT_LIST", ""},
    {-58, "CL_INVALID_EVENT", ""},
    {-59, "CL_INVALID_OPERATION", ""},
    {-60, "CL_INVALID_GL_OBJECT", ""},
    {-61, "CL_INVALID_BUFFER_SIZE", "the buffer is empty or larger than the device allows"},
    {-62, "CL_INVALID_MIP_LEVEL", ""},
    {-63, "CL_INVALID_GLOBAL_WORK_SIZE", "the grid is empty or too large"},
    {-64, "CL_INVALID_PROPERTY", ""},
    {-65, "CL_INVALID_IMAGE_DESCRIPTOR", ""},
    {-66, "CL_INVALID_COMPILER_OPTIONS", "read DDIMCACHE_OPENCL_BUILD_OPTIONS"},
    {-67, "CL_INVALID_LINKER_OPTIONS", ""},
    {-68, "CL_INVALID_DEVICE_PARTITION_COUNT", ""},
    {-69, "CL_INVALID_PIPE_SIZE", ""},
    {-70, "CL_INVALID_DEVICE_QUEUE", ""},
    {-71, "CL_INVALID_SPEC_ID", ""},
    {-72, "CL_MAX_SIZE_RESTRICTION_EXCEEDED", ""},
    {-1000, "CL_INVALID_GL_SHAREGROUP_REFERENCE_KHR", ""},
    {-1001, "CL_PLATFORM_NOT_FOUND_KHR", "the loader found no driver; install one or set OCL_ICD_VENDORS"},
    {-1057, "CL_DEVICE_PARTITION_FAILED_EXT", ""},
    {-1058, "CL_INVALID_PARTITION_COUNT_EXT", ""},
    {-1059, "CL_INVALID_PARTITION_NAME_EXT", ""},
};

const NamedCode* FindCode(cl_int code) {
  for (const NamedCode& entry : kCodes) {
    if (entry.code == code) return &entry;
  }
  return nullptr;
}

}  // namespace

const Api* Api::Find(std::string* reason) {
  const Opened& opened = Library();
  if (opened.found) return &opened.api;
  if (reason != nullptr) *reason = opened.reason;
  return nullptr;
}

const Api& Api::Get() {
  const Opened& opened = Library();
  if (!opened.found) TVM_FFI_THROW(RuntimeError) << "OpenCL is not usable: " << opened.reason;
  return opened.api;
}

void* Api::FindOptional(cl_platform_id platform, const char* name) const {
  // The driver's own answer comes first: a loader may export the name and know nothing of this platform.
  using Query = void*(DDIMCACHE_CL_CALL*)(cl_platform_id, const char*);
  if (auto query = reinterpret_cast<Query>(lookup("clGetExtensionFunctionAddressForPlatform"))) {
    if (void* found = query(platform, name)) return found;
  }
  return lookup(name);
}

std::string ErrorName(cl_int code) {
  const NamedCode* entry = FindCode(code);
  return std::string(entry != nullptr ? entry->name : "CL_UNKNOWN_ERROR") + " (" + std::to_string(code) + ")";
}

void ThrowError(cl_int code, const char* call, const std::string& subject) {
  std::string message = "OpenCL error " + ErrorName(code) + " in " + call;
  if (!subject.empty()) message += " " + subject;
  const NamedCode* entry = FindCode(code);
  if (entry != nullptr && *entry->hint != '\0') message += ": " + std::string(entry->hint);
  TVM_FFI_THROW(RuntimeError) << message;
  TVM_FFI_UNREACHABLE();
}

}  // namespace ddimcache::opencl
