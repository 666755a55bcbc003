#include "whole_vectors.h"

#include <array>

namespace ddimcache::opencl {
namespace {

// A vector whose address is a multiple of no more than one number's size, as vloadn takes it.
constexpr const char* kVectors = R"(
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"
#define DDIMCACHE_LOAD(T, N, A) \
  static inline T##N __attribute__((overloadable, always_inline)) ddimcache_vload##N(size_t o, const A T* p) { \
    typedef T ddimcache_vector __attribute__((ext_vector_type(N), aligned(sizeof(T)))); \
    return *(const A ddimcache_vector*)(p + o * N); \
  }
#define DDIMCACHE_STORE(T, N, A) \
  static inline void __attribute__((overloadable, always_inline)) ddimcache_vstore##N(T##N v, size_t o, A T* p) { \
    typedef T ddimcache_vector __attribute__((ext_vector_type(N), aligned(sizeof(T)))); \
    *(A ddimcache_vector*)(p + o * N) = v; \
  }
#define DDIMCACHE_ACCESS(T, N, A) DDIMCACHE_LOAD(T, N, A) DDIMCACHE_STORE(T, N, A)
#define DDIMCACHE_SPACES(T, N) \
  DDIMCACHE_LOAD(T, N, __constant) DDIMCACHE_ACCESS(T, N, __global) \
  DDIMCACHE_ACCESS(T, N, __local) DDIMCACHE_ACCESS(T, N, __private)
#define DDIMCACHE_VECTORS(T) DDIMCACHE_SPACES(T, 4) DDIMCACHE_SPACES(T, 8) DDIMCACHE_SPACES(T, 16)
)";

// PoCL has them as macros too.
constexpr const char* kNames = R"(
#undef vload4
#define vload4 ddimcache_vload4
#undef vload8
#define vload8 ddimcache_vload8
#undef vload16
#define vload16 ddimcache_vload16
#undef vstore4
#define vstore4 ddimcache_vstore4
#undef vstore8
#define vstore8 ddimcache_vstore8
#undef vstore16
#define vstore16 ddimcache_vstore16
#pragma clang diagnostic pop
#line 1
)";

struct Type {
  const char* name;
  const char* extension;
};

constexpr std::array<Type, 11> kTypes = {{{"char", ""},
                                          {"uchar", ""},
                                          {"short", ""},
                                          {"ushort", ""},
                                          {"int", ""},
                                          {"uint", ""},
                                          {"long", ""},
                                          {"ulong", ""},
                                          {"float", ""},
                                          {"half", "cl_khr_fp16"},
                                          {"double", "cl_khr_fp64"}}};

}  // namespace

std::string WithWholeVectors(const std::string& source) {
  const auto has = [&](const std::string& text) { return source.find(text) != std::string::npos; };
  if (!has("vload") && !has("vstore")) return source;
  std::string result = kVectors;
  for (const Type& type : kTypes) {
    if (!has(type.name)) continue;
    const std::string line = "DDIMCACHE_VECTORS(" + std::string(type.name) + ")\n";
    const std::string extension = type.extension;
    result += extension.empty() ? line
                                : "#ifdef " + extension + "\n#pragma OPENCL EXTENSION " + extension +
                                      " : enable\n" + line + "#endif\n";
  }
  return result + kNames + source;
}

}  // namespace ddimcache::opencl
