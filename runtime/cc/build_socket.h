// Messages between a process and the child that builds programs for it; build_process.h has their form.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace ddimcache::opencl {

// Bytes that a message may have: more than any program.
constexpr uint64_t kMostMessageBytes = uint64_t{256} << 20;

// False when the other end is gone.
bool SendMessage(int descriptor, std::string_view message);

// Nothing when the other end is gone, sends a length that no message has, or `seconds` pass (below zero:
// never). `timed_out` says whether it was the last.
std::optional<std::string> ReceiveMessage(int descriptor, double seconds, bool* timed_out);

std::string JoinTexts(const std::vector<std::string>& texts);

// The texts in a message, or nothing when it does not hold exactly `count`.
std::optional<std::vector<std::string>> SplitTexts(std::string_view message, size_t count);

}  // namespace ddimcache::opencl
