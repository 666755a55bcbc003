// What this library registers with TVM. Loading it registers nothing by itself: an exception in a static
// initialiser would end the process, so the loader calls ddimcache_register and gets a reason back instead.

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>

#include "allocator.h"
#include "build_process.h"
#include "device_api.h"
#include "image_view.h"
#include "json.h"
#include "module.h"
#include "program.h"
#include "program_cache.h"
#include "recording_object.h"
#include "session/session_module.h"

namespace ddimcache::opencl {
namespace {

using tvm::ffi::Bytes;
using tvm::ffi::Map;
using tvm::ffi::Module;
using tvm::ffi::String;

Module MakeModule(ModuleContent content) {
  return Module(tvm::ffi::make_object<OpenClModule>(std::move(content)));
}

String DevicesJson() {
  std::string rows;
  for (const auto& device : Device::All()) {
    if (!rows.empty()) rows += ", ";
    rows += device->info.ToJson(device->index);
  }
  return "[" + rows + "]";
}

String LibraryJson() {
  std::string reason;
  const Api* api = Api::Find(&reason);
  if (api == nullptr) return JsonObject().AddRaw("library", "null").Add("problem", reason).Finish();
  return JsonObject().Add("library", api->library).AddRaw("problem", "null").Finish();
}

String MemoryJson(int device_id) {
  Device& device = Device::At(device_id);
  const MemoryUse use = device.memory.Use();
  JsonObject kinds;
  for (size_t i = 0; i < kMemoryKindCount; ++i) {
    const MemoryUse::Kind& kind = use.kinds[i];
    kinds.AddRaw(MemoryKindName(static_cast<MemoryKind>(i)), JsonObject()
                                                                 .Add("buffers", kind.blocks)
                                                                 .Add("current_bytes", kind.current)
                                                                 .Add("peak_bytes", kind.peak)
                                                                 .Finish());
  }
  return JsonObject()
      .Add("live_buffers", use.blocks)
      .Add("current_bytes", use.current)
      .Add("peak_bytes", use.peak)
      .AddRaw("kinds", kinds.Finish())
      .Add("idle_bytes", use.idle)
      .Add("waiting_bytes", use.waiting)
      .Add("idle_limit_bytes", use.idle_limit)
      .Add("budget_bytes", use.budget)
      .Add("live_programs", device.live_programs.load())
      .Finish();
}

uint64_t CheckedBytes(int64_t bytes, const char* what) {
  if (bytes < 0) TVM_FFI_THROW(ValueError) << what << " of " << bytes << " bytes is below zero";
  return static_cast<uint64_t>(bytes);
}

// Returns the kind that was set before; the empty text stands for none.
String SetMemoryKind(String kind) {
  const auto before = MemoryKindScope::Set(ParseMemoryKind(kind));
  return before ? MemoryKindName(*before) : "";
}

// Scratch images inside kernels' host code: device type, device, type code, type bits, scope, dimensions (3),
// pointer to width, height and layers, bits a pixel.
void* AllocateScratchImage(int, int device_id, int, int, String, int64_t dimensions, void* shape,
                           int64_t pixel_bits) {
  if (dimensions != 3) TVM_FFI_THROW(ValueError) << "a scratch image has 3 dimensions, not " << dimensions;
  if (pixel_bits != 64 && pixel_bits != 128) {
    TVM_FFI_THROW(ValueError) << "a scratch image has 64 or 128 bits a pixel, not " << pixel_bits;
  }
  const auto* sides = static_cast<const int64_t*>(shape);
  const DLDataType channel{kDLFloat, static_cast<uint8_t>(pixel_bits / 4), 1};
  return AllocateImage(Device::At(device_id),
                       MakeImageShape(static_cast<size_t>(sides[0]), static_cast<size_t>(sides[1]),
                                      static_cast<size_t>(sides[2]), channel));
}

int FreeScratchImage(int, int, String, void* handle) {
  Free(Memory::FromHandle(handle, "device_api.opencl.free_nd"));
  return 0;
}

void* MakeAllocator(tvm::Device device, int type) {
  using namespace tvm::runtime::memory;
  return static_cast<Allocator*>(new OpenClAllocator(device, static_cast<AllocatorType>(type)));
}

void Register() {
  RegisterRecordings();
  namespace reflection = tvm::ffi::reflection;
  reflection::GlobalDef()
      .def("device_api.opencl", [] { return static_cast<void*>(OpenClDeviceApi::Global()); })
      .def("device_api.opencl.alloc_nd", AllocateScratchImage)
      .def("device_api.opencl.free_nd", FreeScratchImage)
      .def("DeviceAllocator.opencl", MakeAllocator)
      .def("ffi.Module.create.opencl",
           [](Bytes code, String format, FunctionMap functions, Map<String, String>) {
             return MakeModule({format, functions, std::string(code.data(), code.size())});
           })
      .def("ffi.Module.load_from_bytes.opencl", [](Bytes bytes) { return MakeModule(ParseModule(bytes)); })
      .def("ddimcache.opencl.library", LibraryJson)
      .def("ddimcache.opencl.devices", DevicesJson)
      .def("ddimcache.opencl.memory", MemoryJson)
      .def("ddimcache.opencl.program_cache", [] { return String(ProgramCacheJson()); })
      .def("ddimcache.opencl.synchronise", [](int device_id) { Device::At(device_id).Synchronise(); })
      .def("ddimcache.opencl.keep_programs",
           [](int64_t most) { return KeepPrograms(static_cast<uint64_t>(std::max<int64_t>(most, 0))); })
      .def("ddimcache.opencl.reset_peak", [](int device_id) { Device::At(device_id).memory.ResetPeak(); })
      .def("ddimcache.opencl.memory_kind", SetMemoryKind)
      .def("ddimcache.opencl.set_memory_budget",
           [](int device_id, int64_t bytes) {
             Device::At(device_id).memory.SetBudget(CheckedBytes(bytes, "a memory budget"));
           })
      .def("ddimcache.opencl.set_idle_limit",
           [](int device_id, int64_t bytes) {
             Device::At(device_id).memory.SetIdleLimit(CheckedBytes(bytes, "a limit of idle memory"));
           })
      .def("ddimcache.opencl.image2d", ViewTensorAsImage)
      .def("ddimcache.opencl.strided_view",
           [](tvm::ffi::Tensor tensor, tvm::ffi::Shape shape, tvm::ffi::Shape strides,
              int64_t element_offset) { return tensor.as_strided(shape, strides, element_offset); })
      .def("ddimcache.opencl.release_idle", [](int device_id) { Device::At(device_id).memory.ReleaseIdle(); })
      .def("ddimcache.opencl.launches",
           [](int device_id) { return static_cast<int64_t>(Device::At(device_id).queue().launches()); })
      .def("ddimcache.opencl.profile_start",
           [](int device_id) { Device::At(device_id).queue().ProfileStart(); })
      .def("ddimcache.opencl.profile_stop",
           [](int device_id) { return String(Device::At(device_id).queue().ProfileStop().SummaryJson()); })
      .def("ddimcache.opencl.profile_stop_timeline",
           [](int device_id) { return String(Device::At(device_id).queue().ProfileStop().TimelineJson()); });
}

}  // namespace
}  // namespace ddimcache::opencl

// Counts up when a function above changes its name, arguments or JSON keys; runtime/plugin.py expects the
// same number, so that a library from before an edit is found out instead of misread.
extern "C" __attribute__((visibility("default"))) int ddimcache_interface() {
  return 10;
}

// What ddimcache_build_program runs: builds programs for the process at the other end of the socket.
extern "C" __attribute__((visibility("default"))) int ddimcache_serve_builds(int descriptor,
                                                                             int device_index) {
  try {
    return ddimcache::opencl::ServeBuilds(descriptor, device_index);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ddimcache_build_program: %s\n", error.what());
    return 1;
  }
}

// Registers everything, once. Returns null, or a message that stays valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* ddimcache_register() {
  static std::string problem;
  static bool registered = false;
  if (registered) return nullptr;
  try {
    ddimcache::opencl::Register();
    ddimcache::session::RegisterFunctions();
    registered = true;
    return nullptr;
  } catch (const std::exception& error) {
    problem = error.what();
    return problem.c_str();
  }
}
