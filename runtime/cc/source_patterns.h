// Patterns in OpenCL C that some drivers compile wrongly (hazards.h). Found by tokens, not by a grammar: what
// macros hide is not seen, and comments and strings do not count.
#pragma once

#include <string>

namespace ddimcache::opencl {

// Each is empty where the source does not have it, else a few words that say what was found and in which
// line.
struct SourcePatterns {
  // 64-bit integers beside a vload: "64-bit integers and vload4 (line 12)".
  std::string wide_indices;
  // A vector loaded through a pointer cast to another element type.
  std::string cast_load;
  // A function that is defined beside the kernels.
  std::string helper;
};

SourcePatterns FindPatterns(const std::string& source);

}  // namespace ddimcache::opencl
