// What is known to go wrong on which drivers, and what this runtime does about it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace ddimcache::opencl {

struct DeviceInfo;

// What the runtime does where a hazard is there. kAlways: it does that on every device, the entry only tells.
enum class Avoidance {
  kAlways,
  kLimitArguments,
  kWarnOfWideIndices,
  kWarnOfCastLoads,
  kWarnOfHelpers,
  kReportSpills,
  kIgnorePrivateBytes,
  kBuildInChild,
  kDeferBinaries,
  kWholeVectors,
};

// A line of the table in hazards.cc. A device has the hazard when `platform` and `device` (regular
// expressions, empty: any) are found in its platform's and its own name, and the version that `version` finds
// in its driver's (the expression's first group) lies between `first` and `last`. Versions are compared
// number by number, as far as the bound goes: 41.3.62 is not above 41. An empty bound is none.
struct Hazard {
  const char* name;
  const char* platform;
  const char* device;
  const char* version;
  const char* first;
  const char* last;
  Avoidance avoidance;
  const char* problem;
  const char* handling;
};

// At most so many arguments, and bytes of them, does a kernel have where Avoidance::kLimitArguments holds.
constexpr uint64_t kMostArguments = 128;
constexpr uint64_t kMostArgumentBytes = 1024;

class Hazards {
 public:
  Hazards() = default;
  explicit Hazards(const DeviceInfo& device);

  // The line that asks for this, or null.
  const Hazard* Find(Avoidance avoidance) const;
  // [{"name", "problem", "handling"}, …]
  std::string ToJson() const;

 private:
  std::vector<const Hazard*> found_;
};

// Throws RuntimeError when a kernel has more arguments than the device takes, as it says itself or as the
// table says of its driver.
void CheckArguments(const DeviceInfo& device, const std::string& device_text, const std::string& kernel,
                    uint64_t count, uint64_t bytes);

// Prints a line for every pattern in the source that the device's driver is known to compile wrongly.
void WarnOfSource(const DeviceInfo& device, const std::string& device_text, const std::string& kernel,
                  const std::string& source);

// Prints "ddimcache: warning: <text>" as one line on standard error.
void Warn(const std::string& text);

}  // namespace ddimcache::opencl
