#include "dot_products.h"

#include "device.h"

namespace ddimcache::opencl {
namespace {

// PoCL's Clang may take a CPU for an older one, without these instructions, and then refuses their builtins
// in a kernel. The assembler takes every instruction, and the vectors' registers are there from AVX-512F on.
constexpr const char* kDotInstruction = R"(
#if defined(__AVX512F__) && !defined(DDIMCACHE_PLAIN_DOTS)
static inline int16 __attribute__((always_inline)) ddimcache_dot16(int16 sums, int16 weights, const char* four) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"((int16)(*(const int*)four)));
  return sums;
}
#define DDIMCACHE_DOT16
#endif
)";

constexpr const char* kDot = R"(
#if !defined(DDIMCACHE_DOT16) && !defined(DDIMCACHE_PLAIN_DOTS) && defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
#define DDIMCACHE_DOT(i) sums.s##i += dot_4x8packed_us_int(as_uint(weights.s##i), with)
static inline int16 ddimcache_dot16(int16 sums, int16 weights, const char* four) {
  const uint with = as_uint(vload4(0, four));
  DDIMCACHE_DOT(0); DDIMCACHE_DOT(1); DDIMCACHE_DOT(2); DDIMCACHE_DOT(3);
  DDIMCACHE_DOT(4); DDIMCACHE_DOT(5); DDIMCACHE_DOT(6); DDIMCACHE_DOT(7);
  DDIMCACHE_DOT(8); DDIMCACHE_DOT(9); DDIMCACHE_DOT(a); DDIMCACHE_DOT(b);
  DDIMCACHE_DOT(c); DDIMCACHE_DOT(d); DDIMCACHE_DOT(e); DDIMCACHE_DOT(f);
  return sums;
}
#define DDIMCACHE_DOT16
#endif
#if !defined(DDIMCACHE_DOT16)
static inline int16 ddimcache_dot16(int16 sums, int16 weights, const char* four) {
  return sums + (weights & 255) * (int)four[0] + ((weights >> 8) & 255) * (int)four[1] +
         ((weights >> 16) & 255) * (int)four[2] + ((weights >> 24) & 255) * (int)four[3];
}
#endif
)";

constexpr const char* kPairsInstruction = R"(
#if defined(__AVX512F__) && !defined(DDIMCACHE_PLAIN_DOTS)
static inline float16 __attribute__((always_inline)) ddimcache_pairs16(float16 sums, int16 pairs, int pair) {
  __asm__("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(pairs), "v"((int16)(pair)));
  return sums;
}
#define DDIMCACHE_PAIRS16
#endif
)";

constexpr const char* kPairs = R"(
#if !defined(DDIMCACHE_PAIRS16)
static inline float16 ddimcache_pairs16(float16 sums, int16 pairs, int pair) {
  sums += as_float16(pairs << 16) * as_float(pair << 16);
  return sums + as_float16(pairs & (int)0xffff0000) * as_float(pair & (int)0xffff0000);
}
#endif
)";

struct Function {
  const char* call;
  bool (*is_instruction)();
  const char* instruction;
  const char* portable;
};

// A CPU device of this process is the CPU that runs it.
#if defined(__x86_64__)
constexpr Function kFunctions[] = {
    {"ddimcache_dot16(", [] { return __builtin_cpu_supports("avx512vnni") != 0; }, kDotInstruction, kDot},
    {"ddimcache_pairs16(", [] { return __builtin_cpu_supports("avx512bf16") != 0; }, kPairsInstruction,
     kPairs},
};
#else
constexpr Function kFunctions[] = {
    {"ddimcache_dot16(", [] { return false; }, kDotInstruction, kDot},
    {"ddimcache_pairs16(", [] { return false; }, kPairsInstruction, kPairs},
};
#endif

}  // namespace

std::string WithDotProducts(const DeviceInfo& device, const std::string& source) {
  std::string found;
  for (const Function& function : kFunctions) {
    if (source.find(function.call) == std::string::npos) continue;
    if (device.type == "cpu" && function.is_instruction()) found += function.instruction;
    found += function.portable;
  }
  return found.empty() ? source : found + "#line 1\n" + source;
}

}  // namespace ddimcache::opencl
