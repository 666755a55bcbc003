#include "memory_kind.h"

#include <tvm/ffi/error.h>

#include <utility>

namespace ddimcache::opencl {
namespace {

constexpr const char* kNames[kMemoryKindCount] = {"weights", "activations", "workspace", "images", "other"};

}  // namespace

thread_local std::optional<MemoryKind> MemoryKindScope::current_;

const char* MemoryKindName(MemoryKind kind) {
  return kNames[static_cast<size_t>(kind)];
}

std::optional<MemoryKind> ParseMemoryKind(const std::string& name) {
  if (name.empty()) return std::nullopt;
  std::string known;
  for (size_t kind = 0; kind < kMemoryKindCount; ++kind) {
    if (name == kNames[kind]) return static_cast<MemoryKind>(kind);
    known += std::string(kind == 0 ? "" : ", ") + kNames[kind];
  }
  TVM_FFI_THROW(ValueError) << "there is no kind of memory \"" << name << "\"; there are " << known;
  TVM_FFI_UNREACHABLE();
}

std::optional<MemoryKind> MemoryKindScope::Set(std::optional<MemoryKind> kind) {
  return std::exchange(current_, kind);
}

}  // namespace ddimcache::opencl
