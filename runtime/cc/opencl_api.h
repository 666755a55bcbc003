// The OpenCL library, opened by name at run time, and the names of its error codes.
#pragma once

#include <functional>
#include <string>

#include "opencl_types.h"

namespace ddimcache::opencl {

// Entry points of the opened library, and where it came from.
struct Api {
#define DDIMCACHE_DECLARE(name, result, parameters) result(DDIMCACHE_CL_CALL* name) parameters = nullptr;
  DDIMCACHE_CL_FUNCTIONS(DDIMCACHE_DECLARE)
#undef DDIMCACHE_DECLARE
  std::string library;

  // An entry point that not every library has, or null: of an extension, or of OpenCL 2.0 and later.
  void* FindOptional(cl_platform_id platform, const char* name) const;

  // Opens the library once for the process. Returns null when there is none; `reason`, where given, then says
  // which names were tried, what the loader answered and what to install.
  static const Api* Find(std::string* reason = nullptr);

  // As Find, but throws RuntimeError with the reason.
  static const Api& Get();

  // Looks a name up in the opened library.
  std::function<void*(const char*)> lookup;
};

// "CL_INVALID_WORK_GROUP_SIZE (-54)"; codes that no specification names give "CL_UNKNOWN_ERROR (n)".
std::string ErrorName(cl_int code);

// Throws RuntimeError "OpenCL error <name> in <call>[ of|for <subject>]: <hint>" unless `code` is success.
// `subject` is free text such as `of kernel "x" on device "y" (opencl:0)`.
[[noreturn]] void ThrowError(cl_int code, const char* call, const std::string& subject);

inline void Check(cl_int code, const char* call, const std::string& subject) {
  if (code != kSuccess) [[unlikely]]
    ThrowError(code, call, subject);
}

}  // namespace ddimcache::opencl
