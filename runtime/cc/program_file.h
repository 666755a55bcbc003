// A file of the cache of compiled programs: its key, its name and its bytes. Nothing here touches a disk.
//
// Key: a text of everything that decides what the driver makes of a source: version of this layout, source,
// build options, names and versions of device, driver and platform, each with its length, so that no two sets
// of them give one text. The kernel's name is not in it, because the program does not hang on it.
//
// File <32 hexadecimal digits of a hash of the key>.program, all numbers little-endian:
//
//   8 bytes  "DDIMPROG"
//   u32      version of this layout
//   u64      length, then the key
//   u64      length, then the binary that the driver gave out
//   u64      FNV-1a of everything before
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "device.h"

namespace ddimcache::opencl {

std::string ProgramKey(const DeviceInfo& device, const std::string& options, const std::string& source);

std::string ProgramFileName(std::string_view key);
// Whether it may be the name of such a file.
bool IsProgramFileName(std::string_view name);

std::string EncodeProgram(std::string_view key, std::string_view binary);

// The binary in a file of exactly this key; nothing when any of the above does not hold, or it is empty.
std::optional<std::string> DecodeProgram(std::string_view file, std::string_view key);

}  // namespace ddimcache::opencl
