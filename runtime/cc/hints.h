// What a driver is asked to mind besides the work: who goes first, and at what clock.
#pragma once

#include <string>
#include <vector>

#include "opencl_types.h"

namespace ddimcache::opencl {

struct DeviceInfo;

enum class Level { kLow, kNormal, kHigh };

// By default the work yields to what draws the screen, and leaves the clock to the driver's usual policy.
struct Hints {
  Level priority = Level::kLow;
  Level performance = Level::kNormal;

  // From DDIMCACHE_GPU_PRIORITY and DDIMCACHE_GPU_PERFORMANCE. Throws ValueError for a value that is none of
  // low, normal, high.
  static Hints FromEnvironment();

  // For clCreateContext (cl_qcom_priority_hint, cl_qcom_perf_hint), ended by 0; empty where the device takes
  // none.
  std::vector<intptr_t> ForContext(const DeviceInfo& info, cl_platform_id platform) const;

  // For clCreateCommandQueueWithProperties (cl_khr_priority_hints, cl_khr_throttle_hints): pairs without an
  // end; empty where the device takes none.
  std::vector<cl_ulong> ForQueue(const DeviceInfo& info) const;
};

}  // namespace ddimcache::opencl
