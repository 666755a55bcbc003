// Times of commands, read from their OpenCL events.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "opencl_api.h"

namespace ddimcache::opencl {

// One command: index of its name, and nanoseconds on the device's clock.
struct ProfileRecord {
  uint32_t name;
  uint64_t queued, start, end;
};

struct Profile {
  std::vector<std::string> names;
  std::vector<ProfileRecord> records;

  // [{"kernel": str, "calls": int, "seconds": float, "seconds_minimum": float}], longest total first.
  std::string SummaryJson() const;

  // [{"kernel": str, "queued": ns, "start": ns, "end": ns}] in the order of enqueueing.
  std::string TimelineJson() const;
};

// Collects events while a profile runs. Thread-safe. Holds at most kPending events: drivers keep memory for
// each, so older ones are read and released on the way.
class Profiler {
 public:
  explicit Profiler(const Api& api) : api_(api) {}

  // Takes the event over.
  void Record(const std::string& name, cl_event event);

  // Reads everything outstanding. The queue must have finished.
  Profile Take();

 private:
  static constexpr size_t kPending = 512;

  struct Pending {
    uint32_t name;
    cl_event event;
  };

  void ReadOldest();

  const Api& api_;
  std::mutex mutex_;
  std::unordered_map<std::string, uint32_t> indices_;
  Profile profile_;
  std::deque<Pending> pending_;
};

}  // namespace ddimcache::opencl
