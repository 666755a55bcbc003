// From one source to a program, compiled or out of the cache of compiled programs (program_cache.h).
//
// A driver that hands out a program only at the price of another compilation (Avoidance::kDeferBinaries) is
// not asked for it while somebody waits for a kernel: such a program waits until KeepPrograms is called.
#pragma once

#include <cstdint>
#include <string>

#include "device.h"

namespace ddimcache::opencl {

// Options every kernel is compiled with, followed by those in DDIMCACHE_OPENCL_BUILD_OPTIONS.
std::string BuildOptions();

// The program of `source` for the device: from the cache of compiled programs, else compiled, in a child
// process where that is asked for (build_process.h), and put there. The caller owns it. Throws RuntimeError
// with the error's name, `name`, the options and the whole build log.
cl_program BuildProgram(Device& device, const std::string& name, const std::string& source);

// What the driver makes of `source`, compiled in this process. Throws as BuildProgram does, and when the
// driver does not hand it out.
std::string BuildBinary(Device& device, const std::string& name, const std::string& options,
                        const std::string& source);

// Puts at most `most` of the programs that wait into the cache, the first compiled first. Returns how many
// wait after that.
uint64_t KeepPrograms(uint64_t most);
uint64_t WaitingPrograms();

}  // namespace ddimcache::opencl
