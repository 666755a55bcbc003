// What memory on a device is for: every allocation is counted under one kind.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace ddimcache::opencl {

enum class MemoryKind : uint8_t { kWeights, kActivations, kWorkspace, kImages, kOther };
inline constexpr size_t kMemoryKindCount = 5;

// "weights", "activations", "workspace", "images", "other".
const char* MemoryKindName(MemoryKind kind);

// Empty for the empty text. Throws ValueError, listing the names, for one that is none.
std::optional<MemoryKind> ParseMemoryKind(const std::string& name);

// While it lives, what this thread allocates counts as the given kind. Without one, or with none given, the
// allocation decides: storage of the Relax VM is activations, scratch of kernels is workspace, images are
// images, and everything else is other.
class MemoryKindScope {
 public:
  explicit MemoryKindScope(std::optional<MemoryKind> kind) : before_(current_) { current_ = kind; }
  ~MemoryKindScope() { current_ = before_; }
  MemoryKindScope(const MemoryKindScope&) = delete;
  MemoryKindScope& operator=(const MemoryKindScope&) = delete;

  // The kind of the innermost scope of this thread, if any.
  static std::optional<MemoryKind> Current() { return current_; }
  // For callers that cannot hold a scope, such as Python; returns what was set before.
  static std::optional<MemoryKind> Set(std::optional<MemoryKind> kind);

 private:
  static thread_local std::optional<MemoryKind> current_;
  const std::optional<MemoryKind> before_;
};

}  // namespace ddimcache::opencl
