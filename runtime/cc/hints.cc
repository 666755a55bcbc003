#include "hints.h"

#include <tvm/ffi/error.h>

#include <cstdlib>
#include <string_view>
#include <utility>

#include "device.h"
#include "opencl_extensions.h"

namespace ddimcache::opencl {
namespace {

Level ReadLevel(const char* variable, Level otherwise) {
  const char* text = std::getenv(variable);
  if (text == nullptr || *text == '\0') return otherwise;
  constexpr std::pair<std::string_view, Level> kLevels[] = {
      {"low", Level::kLow}, {"normal", Level::kNormal}, {"high", Level::kHigh}};
  for (const auto& [name, level] : kLevels) {
    if (name == text) return level;
  }
  TVM_FFI_THROW(ValueError) << variable << " is \"" << text << "\", but can be: low, normal, high";
  TVM_FFI_UNREACHABLE();
}

template <typename Value>
Value Choose(Level level, Value low, Value normal, Value high) {
  return level == Level::kLow ? low : level == Level::kNormal ? normal : high;
}

}  // namespace

Hints Hints::FromEnvironment() {
  const Hints usual;
  return {ReadLevel("DDIMCACHE_GPU_PRIORITY", usual.priority),
          ReadLevel("DDIMCACHE_GPU_PERFORMANCE", usual.performance)};
}

std::vector<intptr_t> Hints::ForContext(const DeviceInfo& info, cl_platform_id platform) const {
  std::vector<intptr_t> properties;
  if (info.HasExtension("cl_qcom_perf_hint")) {
    properties.insert(properties.end(),
                      {kContextPerformanceQcom, Choose(performance, kPerformanceLowQcom,
                                                       kPerformanceNormalQcom, kPerformanceHighQcom)});
  }
  if (info.HasExtension("cl_qcom_priority_hint")) {
    properties.insert(
        properties.end(),
        {kContextPriorityQcom, Choose(priority, kPriorityLowQcom, kPriorityNormalQcom, kPriorityHighQcom)});
  }
  if (properties.empty()) return properties;
  properties.insert(properties.begin(), {kContextPlatform, reinterpret_cast<intptr_t>(platform)});
  properties.push_back(0);
  return properties;
}

std::vector<cl_ulong> Hints::ForQueue(const DeviceInfo& info) const {
  std::vector<cl_ulong> properties;
  // Both extensions number high, medium and low as bits 0, 1 and 2.
  const auto bit = [](Level level) { return Choose<cl_ulong>(level, 1 << 2, 1 << 1, 1 << 0); };
  if (info.HasExtension("cl_khr_priority_hints")) {
    properties.insert(properties.end(), {kQueuePriorityKhr, bit(priority)});
  }
  if (info.HasExtension("cl_khr_throttle_hints")) {
    properties.insert(properties.end(), {kQueueThrottleKhr, bit(performance)});
  }
  return properties;
}

}  // namespace ddimcache::opencl
