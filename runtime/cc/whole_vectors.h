// Vector accesses for compilers that put theirs together from narrower ones.
#pragma once

#include <string>

namespace ddimcache::opencl {

// `source` with a vloadn and vstoren for 4, 8 and 16 numbers that are one access each. PoCL's are made of
// those for half as many numbers, down to two, and Clang then splits the arithmetic on what was loaded along
// the same lines: a GroupNorm ran 1.5 times longer. The text uses Clang's extensions. Line numbers stay.
std::string WithWholeVectors(const std::string& source);

}  // namespace ddimcache::opencl
