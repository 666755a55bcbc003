// Lines for people who watch: what the runtime does without, and goes on.
#pragma once

#include <cstdio>
#include <string>

namespace ddimcache::opencl {

// Writes "ddimcache: <text>" to standard error.
inline void LogLine(const std::string& text) {
  std::fprintf(stderr, "ddimcache: %s\n", text.c_str());
}

}  // namespace ddimcache::opencl
