// Taking the source of a module apart into one program a kernel.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace ddimcache::opencl {

// The source without the forward declarations of its kernels. TVM's code generator repeats those of all
// kernels before each one; nothing calls a kernel from another, so they only make a library large (two thirds
// of the text for a UNet) and would tie every program to the signatures of all the others. A line is dropped
// if it declares, and does not define, one of `names` that has a "// Function: <name>" line; a text without
// such lines stays as it is.
std::string WithoutDeclarations(const std::string& source, const std::vector<std::string>& names);

// Source of each function in `names`. TVM's code generator puts a line "// Function: <name>" before each;
// what comes before the first such line belongs to all. A function without a line of its own gets the whole
// source, which still is right, if larger. Give it a source without declarations.
std::map<std::string, std::string> SplitSource(const std::string& source,
                                               const std::vector<std::string>& names);

}  // namespace ddimcache::opencl
