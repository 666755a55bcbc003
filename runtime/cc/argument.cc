#include "argument.h"

#include <tvm/ffi/error.h>

#include "half.h"
#include "memory.h"

namespace ddimcache::opencl {
namespace {

// TVM's own function throws for types that it does not know, which inside a message under construction would
// end the process.
std::string TypeText(DLDataType type) {
  return "code " + std::to_string(type.code) + ", " + std::to_string(type.bits) + " bits, " +
         std::to_string(type.lanes) + " lanes";
}

// The value of a number that TVM passes as whatever its host code had at hand.
int64_t AsInteger(const TVMFFIAny& value) {
  return value.type_index == TVMFFITypeIndex::kTVMFFIFloat ? static_cast<int64_t>(value.v_float64)
                                                           : value.v_int64;
}

double AsFloat(const TVMFFIAny& value) {
  return value.type_index == TVMFFITypeIndex::kTVMFFIFloat ? value.v_float64
                                                           : static_cast<double>(value.v_int64);
}

}  // namespace

Argument ParseArgument(const std::string& function, size_t index, DLDataType type) {
  const uint32_t bytes = type.bits / 8;
  if (type.lanes == 1) {
    switch (type.code) {
      case kDLOpaqueHandle:
        return {ArgumentKind::kBuffer, sizeof(cl_mem)};
      case kDLInt:
      case kDLUInt:
        if (bytes == 1 || bytes == 2 || bytes == 4 || bytes == 8) return {ArgumentKind::kInteger, bytes};
        break;
      case kDLFloat:
        if (bytes == 2) return {ArgumentKind::kHalf, bytes};
        if (bytes == 4) return {ArgumentKind::kFloat, bytes};
        if (bytes == 8) return {ArgumentKind::kDouble, bytes};
        break;
      default:
        break;
    }
  }
  TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << function << "\" takes an argument (number " << index
                            << ") of type " << TypeText(type)
                            << ", which cannot be passed by value: pass a buffer";
  TVM_FFI_UNREACHABLE();
}

cl_mem BufferOf(const KernelSignature& signature, const TVMFFIAny& value) {
  if (value.type_index == TVMFFITypeIndex::kTVMFFINone || value.v_ptr == nullptr) return nullptr;
  return Memory::FromHandle(value.v_ptr, signature.name.c_str())->handle;
}

EncodedArgument EncodeArgument(const Device& device, const KernelSignature& signature, size_t index,
                               const TVMFFIAny& value) {
  EncodedArgument encoded{};
  const Argument& argument = signature.arguments[index];
  switch (argument.kind) {
    case ArgumentKind::kBuffer:
    case ArgumentKind::kPixels: {
      if (value.type_index == TVMFFITypeIndex::kTVMFFINone || value.v_ptr == nullptr) break;
      const Memory* memory = Memory::FromHandle(value.v_ptr, signature.name.c_str());
      if (memory->device != &device) {
        TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << signature.name << "\" runs on "
                                  << device.Describe() << ", but argument " << index << " lives on "
                                  << memory->device->Describe();
      }
      encoded.memory = argument.kind == ArgumentKind::kBuffer
                           ? memory->handle
                           : memory->device->pixels.Over(*memory->device, *memory, argument.channel_type);
      break;
    }
    case ArgumentKind::kInteger: {
      const auto number = static_cast<uint64_t>(AsInteger(value));
      if (argument.bytes == 1) encoded.u8 = static_cast<uint8_t>(number);
      if (argument.bytes == 2) encoded.u16 = static_cast<uint16_t>(number);
      if (argument.bytes == 4) encoded.u32 = static_cast<uint32_t>(number);
      if (argument.bytes == 8) encoded.u64 = number;
      break;
    }
    case ArgumentKind::kHalf:
      encoded.u16 = HalfFromFloat(static_cast<float>(AsFloat(value)));
      break;
    case ArgumentKind::kFloat:
      encoded.f32 = static_cast<float>(AsFloat(value));
      break;
    case ArgumentKind::kDouble:
      encoded.f64 = AsFloat(value);
      break;
  }
  return encoded;
}

}  // namespace ddimcache::opencl
