// Which components are on the device together, and what that takes.
#pragma once

#include <cstdint>

#include "manifest.h"
#include "session.h"

namespace ddimcache::session {

// Bytes on the device at most: weights, planned activations, and what the loop keeps, at the picture size
// that needs most; sizes are there one after another. An estimate: drivers and the host's side of libraries
// are not in it.
uint64_t EstimateBytes(const Manifest& manifest, Memory mode);

// `mode`, or for kAuto the fastest mode whose estimate is within `bytes`; throws Failure of kind UsageError
// where none is.
Memory ChooseMemory(const Manifest& manifest, Memory mode, uint64_t bytes);

// "resident", "pipelined" or "load-on-use", and "auto".
const char* MemoryName(Memory mode);
// Throws Failure of kind UsageError for another name.
Memory MemoryOfName(const std::string& name);

}  // namespace ddimcache::session
