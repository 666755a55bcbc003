// Compiling one source. The place where a cache of compiled programs goes.
#pragma once

#include <string>

#include "device.h"

namespace ddimcache::opencl {

// Options every kernel is compiled with, followed by those in DDIMCACHE_OPENCL_BUILD_OPTIONS.
std::string BuildOptions();

// Compiles and links `source` for the device. The caller owns the program. Throws RuntimeError with the
// error's name, `name`, the options and the whole build log.
cl_program BuildProgram(Device& device, const std::string& name, const std::string& source);

}  // namespace ddimcache::opencl
