// Recordings (recording.h) for Python and other callers of TVM's global functions.
#pragma once

namespace ddimcache::opencl {

// Registers "ddimcache.opencl.record"(device_id, function), "ddimcache.opencl.replay_allowed"() and the type
// of what `record` returns, with the methods replay(), update(launch, argument, value) and describe().
void RegisterRecordings();

}  // namespace ddimcache::opencl
