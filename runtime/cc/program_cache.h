// Compiled programs on disk, so that a process does not compile what another has compiled before it.
//
// Folder: $DDIMCACHE_CACHE/programs, else $XDG_CACHE_HOME/ddimcache/programs, else
// ~/.cache/ddimcache/programs. What this process creates of it is for its user alone (0700, 0600): a program
// is code, and whoever can write here can run code as whoever reads, as with the bundles beside it.
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
//
// A file is used only when all of that holds and its key is the very one that is looked for, so a file that
// is torn, cut, altered or of another version, and a collision of the hash, are misses; so is a binary that
// the driver refuses. After a miss the program is compiled from its source and the file replaced.
//
// Races: a file is written under a name of its own in the same folder, forced to disk and renamed, so readers
// see an old file, a new one or none, and of two writers the last wins, with the same content. Removal may
// take a file that another process is about to look for, or is reading: the first compiles, the second reads
// on. Nothing locks. What a killed writer left is removed an hour later. No failure is told: the cache then
// does not save time.
//
// Size: a write that takes the folder past its bound removes what was used least recently (a hit sets a
// file's time of modification) until an eighth of the bound is free. Processes do not see each other's writes
// until they list the folder, at their first write and every 64th, so the bound can be passed by that much
// for a while.
//
// Environment, read at every program: DDIMCACHE_PROGRAM_CACHE=0 turns it off; DDIMCACHE_PROGRAM_CACHE_BYTES
// is the bound (default 256 MiB).
#pragma once

#include <optional>
#include <string>

#include "device.h"

namespace ddimcache::opencl {

// Whether there is a folder to look into: not turned off, and a home is known.
bool ProgramCacheIsOn();

std::string ProgramKey(const DeviceInfo& device, const std::string& options, const std::string& source);

// The binary kept under that key.
std::optional<std::string> FindProgram(const std::string& key);

// Keeps a binary, if that is possible.
void KeepProgram(const std::string& key, const std::string& binary);

// Counts a program that came out of the cache, or one that was looked for and had to be compiled.
void CountProgramHit();
void CountProgramMiss();

// {"folder": path or null when off, "hits": n, "misses": n}, of this process.
std::string ProgramCacheJson();

}  // namespace ddimcache::opencl
