// Which components are on the device together, and what that takes.
#pragma once

#include <cstdint>

#include "manifest.h"
#include "session.h"

namespace ddimcache::session {

struct MemoryPlan {
  // Not kAuto.
  Memory mode;
  // Whether steps are recorded: a recording has storage of its own.
  bool replay;
};

// Bytes on the device at most: weights, planned activations, and what the loop keeps, at the picture size
// that needs most; sizes are there one after another. An estimate: drivers and the host's side of libraries
// are not in it.
uint64_t EstimateBytes(const Manifest& manifest, MemoryPlan plan);

// The fastest plan with this mode, or any where it is kAuto, whose estimate is within `bytes`; steps are
// recorded only with `replay`. Where none fits, the smallest plan of a mode that was asked for; throws
// Failure of kind UsageError for kAuto.
MemoryPlan PlanMemory(const Manifest& manifest, Memory mode, bool replay, uint64_t bytes);

// "resident", "pipelined" or "load-on-use", and "auto".
const char* MemoryName(Memory mode);
// Throws Failure of kind UsageError for another name.
Memory MemoryOfName(const std::string& name);

}  // namespace ddimcache::session
