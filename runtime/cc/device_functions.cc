#include "device_functions.h"

#include "device.h"

namespace ddimcache::opencl {
namespace {

// PoCL's Clang may take a CPU for an older one, without these instructions, and then refuses their builtins
// in a kernel. The assembler takes every instruction, and the vectors' registers are there from AVX-512F on.
constexpr const char* kDotInstruction = R"(
#if defined(__AVX512F__) && !defined(DDIMCACHE_PLAIN_FUNCTIONS)
static inline int16 __attribute__((always_inline)) ddimcache_dot16(int16 sums, int16 weights, const char* four) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(weights), "v"((int16)(*(const int*)four)));
  return sums;
}
#define DDIMCACHE_DOT16
#endif
)";

constexpr const char* kDot = R"(
#if !defined(DDIMCACHE_DOT16) && !defined(DDIMCACHE_PLAIN_FUNCTIONS) && defined(__opencl_c_integer_dot_product_input_4x8bit_packed)
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
#if defined(__AVX512F__) && !defined(DDIMCACHE_PLAIN_FUNCTIONS)
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

constexpr const char* kPowerInstructions = R"(
#if defined(__AVX512DQ__) && !defined(DDIMCACHE_PLAIN_FUNCTIONS)
#define DDIMCACHE_POWER16
#endif
)";

// 2^n 2^r with n the nearest integer. As integers, because the compiler takes a number that is added and
// subtracted for nothing; 9000000 leaves the nearest integer in the low bits. The coefficients are those of
// src/ddimcache/kernels/exponential.py.
constexpr const char* kPower = R"(
static inline float16 __attribute__((always_inline)) ddimcache_power16(float16 value) {
#if defined(DDIMCACHE_POWER16)
  float16 rest, power;
  __asm__("vreduceps $0, %1, %0" : "=v"(rest) : "v"(value));
#else
  value = value < -126.0f ? (float16)(-126.0f) : value;
  const int16 shifted = as_int16(value + 9000000.0f);
  const float16 rest = value - convert_float16(shifted - 1258902592);
#endif
  float16 sum = rest * 1.339086e-03f + 9.676032e-03f;
  sum = sum * rest + 5.550357e-02f;
  sum = sum * rest + 2.402211e-01f;
  sum = sum * rest + 6.931472e-01f;
  sum = sum * rest + 1.0f;
#if defined(DDIMCACHE_POWER16)
  __asm__("vscalefps %2, %1, %0" : "=v"(power) : "v"(sum), "v"(value - rest));
  return power;
#else
  return sum * as_float16((shifted - 1258902465) << 23);
#endif
}
)";

constexpr const char* kPrefetch = R"(
static inline int ddimcache_prefetch(const __global void* at) {
#if defined(__clang__)
  __builtin_prefetch(at);
#endif
  return 0;
}
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
    {"ddimcache_power16(", [] { return __builtin_cpu_supports("avx512dq") != 0; }, kPowerInstructions,
     kPower},
    {"ddimcache_prefetch(", [] { return false; }, "", kPrefetch},
};
#else
constexpr Function kFunctions[] = {
    {"ddimcache_dot16(", [] { return false; }, kDotInstruction, kDot},
    {"ddimcache_pairs16(", [] { return false; }, kPairsInstruction, kPairs},
    {"ddimcache_power16(", [] { return false; }, kPowerInstructions, kPower},
    {"ddimcache_prefetch(", [] { return false; }, "", kPrefetch},
};
#endif

}  // namespace

std::string WithDeviceFunctions(const DeviceInfo& device, const std::string& source) {
  std::string found;
  for (const Function& function : kFunctions) {
    if (source.find(function.call) == std::string::npos) continue;
    if (device.type == "cpu" && function.is_instruction()) found += function.instruction;
    found += function.portable;
  }
  return found.empty() ? source : found + "#line 1\n" + source;
}

}  // namespace ddimcache::opencl
