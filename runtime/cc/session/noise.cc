// Compiled with -ffp-contract=off: a fused multiply-add would round once where Python rounds twice.
#include "noise.h"

#include <bit>
#include <cmath>

namespace ddimcache::session {
namespace {

// Natural logarithm of a normal positive number, from sums, products and quotients alone: those are the same
// on every machine, and the library's logarithm is not. Within 2 units in the last place.
double Logarithm(double value) {
  // value = mantissa * 2^exponent, with the mantissa in [1/√2, √2)
  const auto bits = std::bit_cast<uint64_t>(value);
  auto exponent = static_cast<int>(bits >> 52) - 1022;
  double mantissa = std::bit_cast<double>((bits & 0x000FFFFFFFFFFFFF) | 0x3FE0000000000000);
  if (mantissa < 0.70710678118654752) {
    mantissa = mantissa * 2.0;
    exponent -= 1;
  }
  // log m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …), |s| < 0.172
  const double s = (mantissa - 1.0) / (mantissa + 1.0);
  const double z = s * s;
  double sum = 1.0 / 21.0;
  for (int odd = 19; odd >= 1; odd -= 2) sum = sum * z + 1.0 / odd;
  // log 2 in two parts, of which the first has zeros enough at its end to be multiplied exactly
  const double high = 6.93147180369123816490e-01, low = 1.90821492927058770002e-10;
  return exponent * high + (exponent * low + 2.0 * (s * sum));
}

template <size_t kCount>
double Polynomial(const double (&coefficients)[kCount], double x) {
  double sum = coefficients[0];
  for (size_t i = 1; i < kCount; ++i) sum = sum * x + coefficients[i];
  return sum;
}

// Highest power first. Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988).
constexpr double kCentreAbove[] = {
    2.5090809287301226727e+3, 3.3430575583588128105e+4, 6.7265770927008700853e+4, 4.5921953931549871457e+4,
    1.3731693765509461125e+4, 1.9715909503065514427e+3, 1.3314166789178437745e+2, 3.3871328727963666080e+0};
constexpr double kCentreBelow[] = {
    5.2264952788528545610e+3, 2.8729085735721942674e+4, 3.9307895800092710610e+4, 2.1213794301586595867e+4,
    5.3941960214247511077e+3, 6.8718700749205790830e+2, 4.2313330701600911252e+1, 1.0};
constexpr double kTailAbove[] = {7.74545014278341407640e-4, 2.27238449892691845833e-2,
                                 2.41780725177450611770e-1, 1.27045825245236838258e+0,
                                 3.64784832476320460504e+0, 5.76949722146069140550e+0,
                                 4.63033784615654529590e+0, 1.42343711074968357734e+0};
constexpr double kTailBelow[] = {1.05075007164441684324e-9, 5.47593808499534494600e-4,
                                 1.51986665636164571966e-2, 1.48103976427480074590e-1,
                                 6.89767334985100004550e-1, 1.67638483018380384940e+0,
                                 2.05319162663775882187e+0, 1.0};

// The quantile of the standard normal distribution at (word + 1/2) / 2^32. The smallest distance to 0 or 1 is
// 2^-33, so the algorithm's third region, beyond e^-25, is never reached.
double Quantile(uint32_t word) {
  const double probability = (static_cast<double>(word) + 0.5) * 0x1p-32;
  const double q = probability - 0.5;
  if (std::abs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * Polynomial(kCentreAbove, r) / Polynomial(kCentreBelow, r);
  }
  const double tail = q < 0 ? probability : 1.0 - probability;
  const double r = std::sqrt(-Logarithm(tail)) - 1.6;
  const double value = Polynomial(kTailAbove, r) / Polynomial(kTailBelow, r);
  return q < 0 ? -value : value;
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(first)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

std::vector<float> Noise(uint64_t seed, size_t count) {
  std::vector<float> noise(count);
  const std::array<uint32_t, 2> key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
  for (size_t first = 0; first < count; first += 4) {
    const uint64_t block = first / 4;
    const auto words = Philox({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key);
    for (size_t i = 0; i < 4 && first + i < count; ++i) {
      noise[first + i] = static_cast<float>(Quantile(words[i]));
    }
  }
  return noise;
}

}  // namespace ddimcache::session
