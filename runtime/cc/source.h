// Taking the source of a module apart into one program a kernel.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace ddimcache::opencl {

// Source of each function in `names`. TVM's code generator puts a line "// Function: <name>" before each;
// what comes before the first such line belongs to all. A function without a line of its own gets the whole
// source, which still is right, if larger. Forward declarations of the other kernels are dropped: they would
// tie every program to the signatures of all the others.
std::map<std::string, std::string> SplitSource(const std::string& source,
                                               const std::vector<std::string>& names);

}  // namespace ddimcache::opencl
