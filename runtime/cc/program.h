// From one source to a program, compiled or out of the cache of compiled programs (program_cache.h).
#pragma once

#include <string>

#include "device.h"

namespace ddimcache::opencl {

// Options every kernel is compiled with, followed by those in DDIMCACHE_OPENCL_BUILD_OPTIONS.
std::string BuildOptions();

// The program of `source` for the device: from the cache of compiled programs, else compiled and put there.
// The caller owns it. Throws RuntimeError with the error's name, `name`, the options and the whole build log.
cl_program BuildProgram(Device& device, const std::string& name, const std::string& source);

}  // namespace ddimcache::opencl
