// Which components are on the device together, and what that takes.
#pragma once

#include <cstdint>

#include "manifest.h"
#include "session.h"

namespace ddimcache::session {

// Bytes on the device at most with a mode that is not kAuto: weights, planned activations, and what the loop
// keeps. An estimate: drivers and the host's side of libraries are not in it.
uint64_t EstimateBytes(const Manifest& manifest, Memory mode);

// The fastest mode whose estimate is within `bytes`. Throws Failure of kind UsageError when none is.
Memory ChooseMemory(const Manifest& manifest, uint64_t bytes);

// "resident", "pipelined" or "load-on-use", and "auto".
const char* MemoryName(Memory mode);
// Throws Failure of kind UsageError for another name.
Memory MemoryOfName(const std::string& name);

}  // namespace ddimcache::session
