#include "hazards.h"

#include <tvm/ffi/error.h>

#include <cstdio>
#include <regex>
#include <string_view>

#include "device.h"
#include "json.h"
#include "source_patterns.h"

namespace ddimcache::opencl {
namespace {

constexpr const char* kQualcomm = "QUALCOMM|Qualcomm";
constexpr const char* kAdreno = "Adreno";
constexpr const char* kAdrenoCompiler = "E031\\.([0-9.]+)";
constexpr const char* kPocl = "Portable Computing Language";

constexpr Hazard kTable[] = {
    {"adreno-build-crash", kQualcomm, kAdreno, kAdrenoCompiler, "38", "41", Avoidance::kBuildInChild,
     "clBuildProgram crashes on some programs, most often on those with kernels of many data types",
     "one program a kernel; built in a child process, so that a crash is an error message"},
    {"adreno-wide-indices", kQualcomm, kAdreno, kAdrenoCompiler, "38", "41", Avoidance::kWarnOfWideIndices,
     "64-bit index arithmetic together with vload gives wrong values",
     "a kernel that has both is named in a warning"},
    {"adreno-cast-loads", kQualcomm, kAdreno, kAdrenoCompiler, "38", "41", Avoidance::kWarnOfCastLoads,
     "vector loads through a pointer of another element type give wrong values",
     "a kernel that does so is named in a warning"},
    {"adreno-helpers", kQualcomm, kAdreno, kAdrenoCompiler, "38", "41", Avoidance::kWarnOfHelpers,
     "functions that a kernel calls are compiled wrongly at times",
     "a kernel whose source defines some is named in a warning"},
    {"adreno-arguments", kQualcomm, kAdreno, kAdrenoCompiler, "38", "41", Avoidance::kLimitArguments,
     "more than 128 arguments, or 1024 bytes of them, crash the driver",
     "such a kernel is refused before it is built"},
    {"adreno-spills", kQualcomm, kAdreno, "", "", "", Avoidance::kReportSpills,
     "a kernel whose registers spill to memory runs about ten times slower",
     "its private bytes are reported; DDIMCACHE_REPORT_SPILLS=1 names such kernels"},
    {"adreno-allocation", kQualcomm, kAdreno, "", "", "", Avoidance::kAlways,
     "a buffer above the device's limit fails or worse", "it is refused before the driver sees it"},
    {"adreno-grouping", kQualcomm, kAdreno, "", "", "", Avoidance::kAlways,
     "the speed of a kernel hangs on which others are in its program",
     "one program a kernel, in tuning as in use"},
    {"adreno-enqueues", kQualcomm, kAdreno, "", "", "", Avoidance::kAlways,
     "unbounded enqueues without a flush run out of memory", "the queue is flushed and bounded"},
    {"pocl-binaries", kPocl, "", "", "", "", Avoidance::kDeferBinaries,
     "to give out a program, PoCL compiles each kernel once more; it keeps what it compiled by itself",
     "programs are put into the cache when asked to (keep_programs), after the work"},
    {"pocl-private-bytes", kPocl, "", "", "", "", Avoidance::kIgnorePrivateBytes,
     "the private bytes of a kernel are one number for all", "they are not read as spilled registers"},
    {"pocl-split-vectors", kPocl, "", "", "", "", Avoidance::kWholeVectors,
     "vloadn and vstoren are put together from pairs of numbers, and so is the arithmetic on what they load",
     "programs get some that are one access each"},
};

std::vector<uint64_t> Numbers(std::string_view version) {
  std::vector<uint64_t> numbers;
  bool inside = false;
  for (const char character : version) {
    const bool digit = character >= '0' && character <= '9';
    if (digit && !inside) numbers.push_back(0);
    // A version number has few digits; more than fit are not one.
    if (digit && numbers.back() < 1'000'000'000) {
      numbers.back() = numbers.back() * 10 + static_cast<uint64_t>(character - '0');
    }
    inside = digit;
  }
  return numbers;
}

// Below zero, zero or above zero as `version` is below, within or above `bound`, as far as the bound goes.
int Compare(const std::vector<uint64_t>& version, std::string_view bound) {
  const std::vector<uint64_t> limit = Numbers(bound);
  for (size_t i = 0; i < limit.size(); ++i) {
    const uint64_t number = i < version.size() ? version[i] : 0;
    if (number != limit[i]) return number < limit[i] ? -1 : 1;
  }
  return 0;
}

bool Matches(const Hazard& hazard, const DeviceInfo& device) {
  const auto found = [](const std::string& text, const char* pattern) {
    return *pattern == '\0' || std::regex_search(text, std::regex(pattern));
  };
  if (!found(device.platform, hazard.platform) || !found(device.name, hazard.device)) return false;
  if (*hazard.version == '\0') return true;
  std::smatch match;
  if (!std::regex_search(device.driver_version, match, std::regex(hazard.version))) return false;
  const std::vector<uint64_t> version = Numbers(match[1].str());
  return Compare(version, hazard.first) >= 0 && Compare(version, hazard.last) <= 0;
}

}  // namespace

Hazards::Hazards(const DeviceInfo& device) {
  for (const Hazard& hazard : kTable) {
    if (Matches(hazard, device)) found_.push_back(&hazard);
  }
}

const Hazard* Hazards::Find(Avoidance avoidance) const {
  for (const Hazard* hazard : found_) {
    if (hazard->avoidance == avoidance) return hazard;
  }
  return nullptr;
}

std::string Hazards::ToJson() const {
  std::string rows;
  for (const Hazard* hazard : found_) {
    if (!rows.empty()) rows += ", ";
    rows += JsonObject()
                .Add("name", hazard->name)
                .Add("problem", hazard->problem)
                .Add("handling", hazard->handling)
                .Finish();
  }
  return "[" + rows + "]";
}

void CheckArguments(const DeviceInfo& device, const std::string& device_text, const std::string& kernel,
                    uint64_t count, uint64_t bytes) {
  const auto refuse = [&](const std::string& takes, const std::string& reason) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << kernel << "\" takes " << takes << "; " << reason
                                << ": split it, or pass fewer buffers";
  };
  if (device.max_kernel_argument_bytes != 0 && bytes > device.max_kernel_argument_bytes) {
    refuse(std::to_string(bytes) + " bytes of arguments",
           device_text + " allows " + std::to_string(device.max_kernel_argument_bytes));
  }
  const Hazard* hazard = device.hazards.Find(Avoidance::kLimitArguments);
  if (hazard != nullptr && (count > kMostArguments || bytes > kMostArgumentBytes)) {
    refuse(std::to_string(count) + " arguments, " + std::to_string(bytes) + " bytes",
           std::string(hazard->problem) + " (" + hazard->name + ", " + device_text + ")");
  }
}

void WarnOfSource(const DeviceInfo& device, const std::string& device_text, const std::string& kernel,
                  const std::string& source) {
  const Hazard* wide = device.hazards.Find(Avoidance::kWarnOfWideIndices);
  const Hazard* cast = device.hazards.Find(Avoidance::kWarnOfCastLoads);
  const Hazard* helper = device.hazards.Find(Avoidance::kWarnOfHelpers);
  if (wide == nullptr && cast == nullptr && helper == nullptr) return;
  const SourcePatterns patterns = FindPatterns(source);
  const auto warn = [&](const Hazard* hazard, const std::string& where) {
    if (hazard == nullptr || where.empty()) return;
    Warn("kernel \"" + kernel + "\" on " + device_text + ": " + where + "; with this driver " +
         hazard->problem + " (" + hazard->name + ")");
  };
  warn(wide, patterns.wide_indices);
  warn(cast, patterns.cast_load);
  warn(helper, patterns.helper);
}

void Warn(const std::string& text) {
  // One call, so that lines of several threads do not mix.
  std::fputs(("ddimcache: warning: " + text + "\n").c_str(), stderr);
}

}  // namespace ddimcache::opencl
