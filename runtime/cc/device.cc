#include "device.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <sstream>
#include <tuple>
#include <utility>

#include "hints.h"
#include "json.h"
#include "log.h"
#include "replay.h"

namespace ddimcache::opencl {
namespace {

// Drivers pad their strings with zeros and spaces.
std::string Trim(std::string text) {
  while (!text.empty() && (text.back() == '\0' || text.back() == ' ')) text.pop_back();
  text.erase(0, std::min(text.find_first_not_of(' '), text.size()));
  return text;
}

template <typename Query>
std::string ReadText(Query query) {
  size_t bytes = 0;
  if (query(0, nullptr, &bytes) != kSuccess || bytes == 0) return "";
  std::string text(bytes, '\0');
  if (query(bytes, text.data(), nullptr) != kSuccess) return "";
  return Trim(std::move(text));
}

std::string PlatformText(const Api& api, cl_platform_id platform, cl_uint what) {
  return ReadText([&](size_t bytes, void* value, size_t* needed) {
    return api.clGetPlatformInfo(platform, what, bytes, value, needed);
  });
}

std::string DeviceText(const Api& api, cl_device_id device, cl_uint what) {
  return ReadText([&](size_t bytes, void* value, size_t* needed) {
    return api.clGetDeviceInfo(device, what, bytes, value, needed);
  });
}

// Zero where the driver does not know the question.
template <typename Value>
Value DeviceValue(const Api& api, cl_device_id device, cl_uint what) {
  Value value{};
  if (api.clGetDeviceInfo(device, what, sizeof(value), &value, nullptr) != kSuccess) return Value{};
  return value;
}

std::string TypeName(cl_bitfield type) {
  if (type & kDeviceTypeGpu) return "gpu";
  if (type & kDeviceTypeAccelerator) return "accelerator";
  if (type & kDeviceTypeCpu) return "cpu";
  return "custom";
}

int TypeRank(const std::string& type) {
  if (type == "gpu") return 0;
  if (type == "accelerator") return 1;
  if (type == "cpu") return 2;
  return 3;
}

DeviceInfo ReadInfo(const Api& api, cl_platform_id platform, cl_device_id device) {
  DeviceInfo info;
  info.name = DeviceText(api, device, kDeviceName);
  info.vendor = DeviceText(api, device, kDeviceVendor);
  info.platform = PlatformText(api, platform, kPlatformName);
  info.platform_version = PlatformText(api, platform, kPlatformVersion);
  info.driver_version = DeviceText(api, device, kDriverVersion);
  info.version = DeviceText(api, device, kDeviceVersion);
  info.type = TypeName(DeviceValue<cl_bitfield>(api, device, kDeviceType));
  std::istringstream words(DeviceText(api, device, kDeviceExtensions));
  for (std::string word; words >> word;) info.extensions.push_back(word);
  std::sort(info.extensions.begin(), info.extensions.end());
  info.images = DeviceValue<cl_bool>(api, device, kDeviceImageSupport) != 0;
  info.max_alloc_bytes = DeviceValue<cl_ulong>(api, device, kDeviceMaxMemAllocSize);
  info.global_mem_bytes = DeviceValue<cl_ulong>(api, device, kDeviceGlobalMemSize);
  info.global_cache_bytes = DeviceValue<cl_ulong>(api, device, kDeviceGlobalMemCacheSize);
  info.local_mem_bytes = DeviceValue<cl_ulong>(api, device, kDeviceLocalMemSize);
  info.constant_mem_bytes = DeviceValue<cl_ulong>(api, device, kDeviceMaxConstantBufferSize);
  info.max_work_group_size = DeviceValue<size_t>(api, device, kDeviceMaxWorkGroupSize);
  // A driver may offer more than three dimensions; the first three are the ones a launch can use.
  const cl_uint dimensions = std::max(3u, DeviceValue<cl_uint>(api, device, kDeviceMaxWorkItemDimensions));
  std::vector<size_t> sizes(dimensions, 1);
  api.clGetDeviceInfo(device, kDeviceMaxWorkItemSizes, sizes.size() * sizeof(size_t), sizes.data(), nullptr);
  std::copy_n(sizes.begin(), 3, info.max_work_item_sizes);
  info.compute_units = DeviceValue<cl_uint>(api, device, kDeviceMaxComputeUnits);
  info.max_clock_mhz = DeviceValue<cl_uint>(api, device, kDeviceMaxClockFrequency);
  info.max_kernel_argument_bytes = DeviceValue<size_t>(api, device, kDeviceMaxParameterSize);
  info.base_address_alignment = std::max(8u, DeviceValue<cl_uint>(api, device, kDeviceMemBaseAddrAlign)) / 8;
  if (info.images) {
    info.image2d_max_width = DeviceValue<size_t>(api, device, kDeviceImage2dMaxWidth);
    info.image2d_max_height = DeviceValue<size_t>(api, device, kDeviceImage2dMaxHeight);
    info.image_max_array_size = DeviceValue<size_t>(api, device, kDeviceImageMaxArraySize);
    info.image_max_buffer_pixels = DeviceValue<size_t>(api, device, kDeviceImageMaxBufferSize);
    info.image_pitch_alignment_pixels = DeviceValue<cl_uint>(api, device, kDeviceImagePitchAlignment);
  }
  info.hazards = Hazards(info);
  return info;
}

std::vector<std::unique_ptr<Device>> Enumerate() {
  const Api* api = Api::Find();
  if (api == nullptr) return {};
  cl_uint platform_count = 0;
  // A loader without drivers answers with an error of its own; for the caller both mean "nothing there".
  if (api->clGetPlatformIDs(0, nullptr, &platform_count) != kSuccess || platform_count == 0) return {};
  std::vector<cl_platform_id> platforms(platform_count);
  if (api->clGetPlatformIDs(platform_count, platforms.data(), nullptr) != kSuccess) return {};

  struct Found {
    cl_platform_id platform;
    cl_device_id id;
    DeviceInfo info;
  };
  std::vector<Found> found;
  for (cl_platform_id platform : platforms) {
    cl_uint count = 0;
    if (api->clGetDeviceIDs(platform, kDeviceTypeAll, 0, nullptr, &count) != kSuccess || count == 0) continue;
    std::vector<cl_device_id> devices(count);
    if (api->clGetDeviceIDs(platform, kDeviceTypeAll, count, devices.data(), nullptr) != kSuccess) continue;
    for (cl_device_id device : devices) found.push_back({platform, device, ReadInfo(*api, platform, device)});
  }
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) {
    return std::make_tuple(TypeRank(a.info.type), std::cref(a.info.platform), std::cref(a.info.name)) <
           std::make_tuple(TypeRank(b.info.type), std::cref(b.info.platform), std::cref(b.info.name));
  });
  std::vector<std::unique_ptr<Device>> devices;
  for (Found& entry : found) {
    devices.push_back(std::make_unique<Device>(*api, static_cast<int>(devices.size()), entry.id,
                                               entry.platform, std::move(entry.info)));
  }
  return devices;
}

}  // namespace

bool DeviceInfo::HasExtension(const std::string& extension) const {
  return std::binary_search(extensions.begin(), extensions.end(), extension);
}

std::string DeviceInfo::ToJson(int index) const {
  std::string extension_list;
  for (const std::string& extension : extensions) {
    if (!extension_list.empty()) extension_list += ", ";
    extension_list += JsonString(extension);
  }
  std::string item_sizes;
  for (uint64_t size : max_work_item_sizes) {
    if (!item_sizes.empty()) item_sizes += ", ";
    item_sizes += std::to_string(size);
  }
  return JsonObject()
      .Add("index", static_cast<uint64_t>(index))
      .Add("name", name)
      .Add("vendor", vendor)
      .Add("platform", platform)
      .Add("driver_version", driver_version)
      .Add("version", version)
      .Add("type", type)
      .AddRaw("extensions", "[" + extension_list + "]")
      .Add("fp16", HasExtension("cl_khr_fp16"))
      .Add("images", images)
      .Add("max_alloc_bytes", max_alloc_bytes)
      .Add("global_mem_bytes", global_mem_bytes)
      .Add("global_cache_bytes", global_cache_bytes)
      .Add("local_mem_bytes", local_mem_bytes)
      .Add("constant_mem_bytes", constant_mem_bytes)
      .Add("max_work_group_size", max_work_group_size)
      .AddRaw("max_work_item_sizes", "[" + item_sizes + "]")
      .Add("compute_units", compute_units)
      .Add("max_clock_mhz", max_clock_mhz)
      .Add("max_kernel_argument_bytes", max_kernel_argument_bytes)
      .Add("base_address_alignment", base_address_alignment)
      .Add("image2d_max_width", image2d_max_width)
      .Add("image2d_max_height", image2d_max_height)
      .Add("image_max_array_size", image_max_array_size)
      .Add("image_max_buffer_pixels", image_max_buffer_pixels)
      .Add("image_pitch_alignment_pixels", image_pitch_alignment_pixels)
      .AddRaw("hazards", hazards.ToJson())
      .Finish();
}

Device::Device(const Api& api, int index, cl_device_id id, cl_platform_id platform, DeviceInfo info)
    : api(api),
      index(index),
      id(id),
      platform(platform),
      info(std::move(info)),
      memory(*this),
      replay_(std::make_unique<ReplaySelection>(*this)) {}

Device::~Device() = default;

void Device::Open() {
  if (opened_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  if (opened_.load(std::memory_order_relaxed)) return;
  cl_int code = kSuccess;
  const Hints hints = Hints::FromEnvironment();
  if (context_ == nullptr) {
    const std::vector<intptr_t> properties = hints.ForContext(info, platform);
    const intptr_t* given = properties.empty() ? nullptr : properties.data();
    cl_context made = api.clCreateContext(given, 1, &id, nullptr, nullptr, &code);
    if (code != kSuccess && given != nullptr) {
      LogLine("priority and performance hints are left out on " + Describe() +
              ", which lists them but answers " + ErrorName(code));
      made = api.clCreateContext(nullptr, 1, &id, nullptr, nullptr, &code);
    }
    Check(code, "clCreateContext", "for " + Describe());
    context_ = made;
  }
  queue_ = std::make_unique<Queue>(api, context_, id, platform, Describe(), hints.ForQueue(info));
  opened_.store(true, std::memory_order_release);
}

cl_context Device::context() {
  Open();
  return context_;
}

Queue& Device::queue() {
  Open();
  return *queue_;
}

ReplaySelection& Device::replay() {
  return *replay_;
}

void Device::Synchronise() {
  if (!opened_.load(std::memory_order_acquire)) return;
  // Before the wait: what is given back during it may be used by commands enqueued after it.
  const uint64_t enqueued = queue().enqueued();
  queue().Finish();
  memory.ReleaseWaiting(enqueued);
}

std::string Device::Describe() const {
  return "device \"" + info.name + "\" (opencl:" + std::to_string(index) + ")";
}

const std::vector<std::unique_ptr<Device>>& Device::All() {
  // Never freed: tensors may be released after static destructors have run.
  static const auto* const devices = new std::vector<std::unique_ptr<Device>>(Enumerate());
  return *devices;
}

Device& Device::At(int index) {
  const auto& devices = All();
  if (devices.empty()) {
    Api::Get();  // throws what to install when there is not even a library
    TVM_FFI_THROW(RuntimeError) << "OpenCL is not usable: the library " << Api::Get().library
                                << " was opened, but it offers no device. Install a driver for the GPU, or "
                                   "PoCL for the CPU (Debian: apt-get install pocl-opencl-icd)";
  }
  if (index < 0 || static_cast<size_t>(index) >= devices.size()) {
    TVM_FFI_THROW(ValueError) << "there is no device opencl:" << index << "; this machine has opencl:0"
                              << (devices.size() > 1 ? " to opencl:" + std::to_string(devices.size() - 1)
                                                     : "");
  }
  return *devices[static_cast<size_t>(index)];
}

int& Device::Current() {
  static thread_local int index = 0;
  return index;
}

}  // namespace ddimcache::opencl
