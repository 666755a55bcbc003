// Programs built in a child process, so that a driver that crashes or hangs over one of them is an error
// message here and not the end of this process.
//
// A process that has a driver loaded cannot safely fork, so the child is a program of its own,
// ddimcache_build_program beside this library, started once and asked for one program after another through a
// socket; as many of them run as threads build at once. It loads this very library, opens the same OpenCL
// library and device, builds from source and sends back what the driver made of it, or what went wrong. Every
// message is a u64 length and that many bytes, in the order of bytes of the machine; a text inside one has
// the same form:
//
//   child   on start   texts: name, driver version, version and platform of its device
//   parent  request    texts: kernel's name, build options, source
//   child   answer     "b" and the binary, or "e" and an error message
//
// Environment: DDIMCACHE_BUILD_IN_CHILD=1 turns this on, 0 off; without it, hazards.cc names the drivers for
// which it is on. DDIMCACHE_BUILD_SECONDS is how long one program may take (default 120).
#pragma once

#include <string>

#include "device.h"

namespace ddimcache::opencl {

bool BuildsInChild(const Device& device);

// The binary of a program. Throws RuntimeError that names the kernel and the device: with the driver's
// message, or, when the child crashed or took too long, with the file in which the source is kept.
std::string BuildInChild(const Device& device, const std::string& name, const std::string& options,
                         const std::string& source);

// The child: serves requests on the descriptor until its other end is closed. Returns an exit status.
int ServeBuilds(int descriptor, int device_index);

}  // namespace ddimcache::opencl
