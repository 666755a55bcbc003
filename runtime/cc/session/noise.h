// The noise of a seed: the same bits on every machine, here and in runtime/noise.py. Numbers 4k … 4k+3 come
// from block k of Philox4x32-10 (Salmon et al., SC 2011) with the seed as its key.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace ddimcache::session {

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// `count` numbers of the standard normal distribution.
std::vector<float> Noise(uint64_t seed, size_t count);

}  // namespace ddimcache::session
