// Compiled programs on disk, so that a process does not compile what another has compiled before it.
//
// Folder: $DDIMCACHE_CACHE/programs, else $XDG_CACHE_HOME/ddimcache/programs, else
// ~/.cache/ddimcache/programs. What this process creates of it is for its user alone (0700, 0600): a program
// is code, and whoever can write here can run code as whoever reads, as with the bundles beside it.
//
// Key and layout of a file: program_file.h.
//
// A file is used only when its layout and checksum hold and its key is the very one that is looked for, so a
// file that is torn, cut, altered or of another version, and a collision of the hash, are misses; so is a
// binary that the driver refuses. After a miss the program is compiled from its source and the file replaced.
//
// Races: a file is written under a name of its own in the same folder, forced to disk and renamed, so readers
// see an old file, a new one or none, and of two writers the last wins, with the same content. Removal may
// take a file that another process is about to look for, or is reading: the first compiles, the second reads
// on. Nothing waits for a lock; a writer holds one on its unfinished file, by which a listing tells what a
// killed writer left, and removes it. A program that cannot be kept (disk full, folder not to be written) is
// no error: one line on standard error says so, and the cache does not save time.
//
// Size: a write that takes the folder past its bound removes what was used least recently (a hit sets a
// file's time of modification) until an eighth of the bound is free. Processes do not see each other's writes
// until they list the folder, at their first write and every 64th, so the bound can be passed by that much
// for a while.
//
// Environment, read at every program: DDIMCACHE_PROGRAM_CACHE=0 turns it off, =1 keeps programs at once also
// where that costs a compile (program.h); DDIMCACHE_PROGRAM_CACHE_BYTES is the bound (default 256 MiB).
#pragma once

#include <optional>
#include <string>

namespace ddimcache::opencl {

// Whether there is a folder to look into: not turned off, and a home is known.
bool ProgramCacheIsOn();

// The binary kept under that key.
std::optional<std::string> FindProgram(const std::string& key);

// Keeps a binary, if that is possible.
void KeepProgram(const std::string& key, const std::string& binary);

// Writes a source that a driver could not build into a file, in folder "failed" of the cache or, without one,
// in $TMPDIR. Returns its path, or nothing when that is not possible either.
std::string KeepFailedSource(const std::string& name, const std::string& source);

// Counts a program that came out of the cache, or one that was looked for and had to be compiled.
void CountProgramHit();
void CountProgramMiss();

// {"folder": path or null when off, "hits": n, "misses": n, "waiting": programs to be kept, "problem": why
// the last one could not be kept or null}, of this process.
std::string ProgramCacheJson();

}  // namespace ddimcache::opencl
