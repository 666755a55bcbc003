// Every entry point that the plug-in looks up and driver.cc does not have: answers 0, does nothing. A
// function of driver.cc takes the place of the weak one here.
#include "opencl_types.h"

using namespace ddimcache::opencl;

#define DDIMCACHE_ABSENT(name, result, parameters)          \
  extern "C" __attribute__((weak)) result name parameters { \
    return result{};                                        \
  }
DDIMCACHE_CL_FUNCTIONS(DDIMCACHE_ABSENT)
