// What this library registers with TVM. Loading it registers nothing by itself: an exception in a static
// initialiser would end the process, so the loader calls ddimcache_register and gets a reason back instead.

#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/ffi/reflection/registry.h>

#include <exception>
#include <string>

#include "device_api.h"
#include "json.h"
#include "module.h"

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
  const MemoryCounters& memory = Device::At(device_id).memory;
  return JsonObject()
      .Add("live_buffers", memory.live())
      .Add("current_bytes", memory.current())
      .Add("peak_bytes", memory.peak())
      .Finish();
}

void Register() {
  namespace reflection = tvm::ffi::reflection;
  reflection::GlobalDef()
      .def("device_api.opencl", [] { return static_cast<void*>(OpenClDeviceApi::Global()); })
      .def("ffi.Module.create.opencl",
           [](Bytes code, String format, FunctionMap functions, Map<String, String>) {
             return MakeModule({format, functions, std::string(code.data(), code.size())});
           })
      .def("ffi.Module.load_from_bytes.opencl", [](Bytes bytes) { return MakeModule(ParseModule(bytes)); })
      .def("ddimcache.opencl.library", LibraryJson)
      .def("ddimcache.opencl.devices", DevicesJson)
      .def("ddimcache.opencl.memory", MemoryJson)
      .def("ddimcache.opencl.reset_peak", [](int device_id) { Device::At(device_id).memory.ResetPeak(); })
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

// Registers everything, once. Returns null, or a message that stays valid until the next call.
extern "C" __attribute__((visibility("default"))) const char* ddimcache_register() {
  static std::string problem;
  static bool registered = false;
  if (registered) return nullptr;
  try {
    ddimcache::opencl::Register();
    registered = true;
    return nullptr;
  } catch (const std::exception& error) {
    problem = error.what();
    return problem.c_str();
  }
}
