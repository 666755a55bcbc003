// Mending what TVM's code generator gets wrong in OpenCL C.
#pragma once

#include <string>

namespace ddimcache::opencl {

// In OpenCL C a comparison of vectors gives 0 and -1, and select on vectors looks at the highest bit. TVM
// takes truth for 1, so it loses
// - a vector select whose condition is one number for all lanes: its mask is 0 and 1, and nothing is
// selected;
// - a comparison that is converted to numbers: it becomes 0 and -1.
// Masks of vector selects get "!= 0", comparisons inside a conversion to a vector "& 1"; both leave what was
// right as it was. Meant for generated source only: a hand-written select may count on the highest bit.
std::string RepairVectorMasks(const std::string& source);

}  // namespace ddimcache::opencl
