// OpenCL devices: the ordered list of what is there, and per device its context, queue and memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "hazards.h"
#include "memory_pool.h"
#include "opencl_api.h"
#include "pixel_views.h"
#include "queue.h"

namespace ddimcache::opencl {

class ReplaySelection;

// What a device says about itself. Sizes in bytes, images in pixels.
struct DeviceInfo {
  std::string name, vendor, platform, platform_version, driver_version, version, type;
  std::vector<std::string> extensions;
  bool images = false;
  uint64_t max_alloc_bytes = 0;
  uint64_t global_mem_bytes = 0;
  uint64_t global_cache_bytes = 0;
  uint64_t local_mem_bytes = 0;
  uint64_t constant_mem_bytes = 0;
  uint64_t max_work_group_size = 0;
  uint64_t max_work_item_sizes[3] = {1, 1, 1};
  uint64_t compute_units = 0;
  uint64_t max_clock_mhz = 0;
  uint64_t max_kernel_argument_bytes = 0;
  uint64_t base_address_alignment = 1;
  uint64_t image2d_max_width = 0, image2d_max_height = 0;
  uint64_t image_max_array_size = 0, image_max_buffer_pixels = 0;
  uint64_t image_pitch_alignment_pixels = 0;
  Hazards hazards;

  bool HasExtension(const std::string& extension) const;
  std::string ToJson(int index) const;
};

class Device {
 public:
  Device(const Api& api, int index, cl_device_id id, cl_platform_id platform, DeviceInfo info);
  ~Device();

  // Created at first use, so that listing devices costs no context (on a phone a context costs memory).
  // Throws RuntimeError when the driver refuses.
  cl_context context();
  Queue& queue();

  // How recordings are replayed here.
  ReplaySelection& replay();

  // Waits until everything enqueued so far has run, then releases the memory that was waiting for that.
  void Synchronise();

  // `device "Adreno(TM) 740" (opencl:0)`, for messages.
  std::string Describe() const;

  const Api& api;
  const int index;
  const cl_device_id id;
  const cl_platform_id platform;
  const DeviceInfo info;
  PixelViews pixels;
  MemoryPool memory;
  // Compiled programs that have not been released.
  std::atomic<uint64_t> live_programs{0};

  // Every device of every platform: GPUs, then accelerators, then CPUs, then the rest; within a kind by
  // platform name and device name, so that the order does not hang on the order of ICD files. Empty when
  // there is no library or no device. Enumerated once for the process.
  static const std::vector<std::unique_ptr<Device>>& All();

  // The device of that index. Throws RuntimeError that says what there is, or what to install.
  static Device& At(int index);

  // The index set by TVM for the calling thread.
  static int& Current();

 private:
  void Open();

  std::mutex mutex_;
  std::atomic<bool> opened_{false};
  cl_context context_ = nullptr;
  std::unique_ptr<Queue> queue_;
  const std::unique_ptr<ReplaySelection> replay_;
};

}  // namespace ddimcache::opencl
