// Stands in for a header of TVM that its wheel does not ship, but which <tvm/runtime/tensor.h> includes. Only
// inline functions that this library never calls use the class, so declarations are enough.
#pragma once

#include <cstddef>

namespace tvm::support {

class Stream {
 public:
  size_t Read(void* data, size_t bytes);
  void Write(const void* data, size_t bytes);
  template <typename Value>
  bool Read(Value* value);
  template <typename Value>
  void Write(const Value& value);
  template <typename Value>
  bool ReadArray(Value* values, size_t count);
  template <typename Value>
  void WriteArray(const Value* values, size_t count);
};

}  // namespace tvm::support
