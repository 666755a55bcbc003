#include "kernel.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "half.h"
#include "json.h"
#include "memory.h"
#include "program.h"

namespace ddimcache::opencl {
namespace {

// TVM's own function throws for types that it does not know, which inside a message under construction would
// end the process.
std::string TypeText(DLDataType type) {
  return "code " + std::to_string(type.code) + ", " + std::to_string(type.bits) + " bits, " +
         std::to_string(type.lanes) + " lanes";
}

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

LaunchLayout LaunchLayout::Parse(const FunctionInfoObj& info) {
  LaunchLayout layout;
  for (const tvm::ffi::String& item : info.launch_tags) {
    const std::string tag = item;
    int index = -1;
    for (int axis = 0; axis < 3; ++axis) {
      const char letter = static_cast<char>('x' + axis);
      if (tag == std::string("blockIdx.") + letter) index = axis;
      if (tag == std::string("threadIdx.") + letter) index = 3 + axis;
    }
    if (index < 0) {
      const bool dynamic_local = tag == "tirx.use_dyn_shared_memory";
      TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << std::string(info.name) << "\" wants \"" << tag
                                << "\", "
                                << (dynamic_local
                                        ? "but OpenCL C declares local memory with a fixed size: use the "
                                          "scope \"shared\" instead of \"shared.dyn\""
                                        : "which OpenCL does not have");
    }
    layout.extents.push_back(index);
    layout.dimensions = std::max(layout.dimensions, static_cast<uint32_t>(index % 3 + 1));
  }
  return layout;
}

Kernel::Kernel(std::string name, std::string source, const FunctionInfoObj& info)
    : name_(std::move(name)), source_(std::move(source)), layout_(LaunchLayout::Parse(info)) {
  for (size_t i = 0; i < info.argument_types.size(); ++i) {
    arguments_.push_back(ParseArgument(name_, i, info.argument_types[i]));
  }
}

Kernel::~Kernel() {
  for (auto& [device, built] : built_) {
    device->api.clReleaseKernel(built.kernel);
    device->api.clReleaseProgram(built.program);
    device->live_programs.fetch_sub(1);
  }
}

std::string Kernel::Subject(const Device& device) const {
  return "of kernel \"" + name_ + "\" on " + device.Describe();
}

Kernel::Built& Kernel::Build(Device& device) {
  const auto known = built_.find(&device);
  if (known != built_.end()) return known->second;
  uint64_t argument_bytes = 0;
  for (const Argument& argument : arguments_) argument_bytes += argument.bytes;
  if (device.info.max_kernel_argument_bytes != 0 && argument_bytes > device.info.max_kernel_argument_bytes) {
    TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << name_ << "\" takes " << argument_bytes
                                << " bytes of arguments; " << device.Describe() << " allows "
                                << device.info.max_kernel_argument_bytes;
  }
  Built built;
  built.program = BuildProgram(device, name_, source_);
  cl_int code = kSuccess;
  built.kernel = device.api.clCreateKernel(built.program, name_.c_str(), &code);
  if (code == kSuccess) {
    code =
        device.api.clGetKernelWorkGroupInfo(built.kernel, device.id, kKernelWorkGroupSize,
                                            sizeof(built.work_group_size), &built.work_group_size, nullptr);
    if (code != kSuccess) device.api.clReleaseKernel(built.kernel);
  }
  if (code != kSuccess) {
    device.api.clReleaseProgram(built.program);
    ThrowError(code, "clCreateKernel", Subject(device));
  }
  device.live_programs.fetch_add(1);
  return built_.emplace(&device, built).first->second;
}

void Kernel::SetArguments(Device& device, cl_kernel kernel, tvm::ffi::PackedArgs arguments) const {
  const auto* values = reinterpret_cast<const TVMFFIAny*>(arguments.data());
  for (size_t i = 0; i < arguments_.size(); ++i) {
    const TVMFFIAny& value = values[i];
    union {
      cl_mem memory;
      uint8_t u8;
      uint16_t u16;
      uint32_t u32;
      uint64_t u64;
      float f32;
      double f64;
    } slot;
    switch (arguments_[i].kind) {
      case ArgumentKind::kBuffer:
        if (value.type_index == TVMFFITypeIndex::kTVMFFINone || value.v_ptr == nullptr) {
          slot.memory = nullptr;
        } else {
          const Memory* memory = Memory::FromHandle(value.v_ptr, name_.c_str());
          if (memory->device != &device) {
            TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << name_ << "\" runs on " << device.Describe()
                                      << ", but argument " << i << " lives on " << memory->device->Describe();
          }
          slot.memory = memory->handle;
        }
        break;
      case ArgumentKind::kInteger: {
        const auto number = static_cast<uint64_t>(AsInteger(value));
        if (arguments_[i].bytes == 1) slot.u8 = static_cast<uint8_t>(number);
        if (arguments_[i].bytes == 2) slot.u16 = static_cast<uint16_t>(number);
        if (arguments_[i].bytes == 4) slot.u32 = static_cast<uint32_t>(number);
        if (arguments_[i].bytes == 8) slot.u64 = number;
        break;
      }
      case ArgumentKind::kHalf:
        slot.u16 = HalfFromFloat(static_cast<float>(AsFloat(value)));
        break;
      case ArgumentKind::kFloat:
        slot.f32 = static_cast<float>(AsFloat(value));
        break;
      case ArgumentKind::kDouble:
        slot.f64 = AsFloat(value);
        break;
    }
    const cl_int code =
        device.api.clSetKernelArg(kernel, static_cast<cl_uint>(i), arguments_[i].bytes, &slot);
    if (code != kSuccess) [[unlikely]] {
      ThrowError(code, "clSetKernelArg", "of argument " + std::to_string(i) + " " + Subject(device));
    }
  }
}

void Kernel::CheckWorkGroup(const Device& device, const Built& built, const size_t* local) const {
  const size_t items = local[0] * local[1] * local[2];
  const auto shape = [&] {
    return std::to_string(local[0]) + "x" + std::to_string(local[1]) + "x" + std::to_string(local[2]);
  };
  if (items > built.work_group_size) [[unlikely]] {
    TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << name_ << "\" is launched with work-groups of "
                                << items << " work-items (" << shape() << "), but on " << device.Describe()
                                << " this kernel can have " << built.work_group_size << " (the device allows "
                                << device.info.max_work_group_size
                                << "): use smaller work-groups, or fewer registers a work-item";
  }
  for (int axis = 0; axis < 3; ++axis) {
    if (local[axis] > device.info.max_work_item_sizes[axis]) [[unlikely]] {
      TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << name_ << "\" is launched with work-groups of "
                                  << shape() << ", but " << device.Describe() << " allows at most "
                                  << device.info.max_work_item_sizes[axis] << " work-items along axis "
                                  << axis;
    }
  }
}

void Kernel::Launch(tvm::ffi::PackedArgs arguments) {
  const size_t expected = arguments_.size() + layout_.extents.size();
  if (static_cast<size_t>(arguments.size()) != expected) {
    TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << name_ << "\" takes " << arguments_.size()
                              << " arguments and " << layout_.extents.size() << " launch extents, but got "
                              << arguments.size() << " values";
  }
  size_t extent[6] = {1, 1, 1, 1, 1, 1};
  const auto* values = reinterpret_cast<const TVMFFIAny*>(arguments.data());
  for (size_t i = 0; i < layout_.extents.size(); ++i) {
    const int64_t value = values[arguments_.size() + i].v_int64;
    // A dynamic shape of zero elements: nothing to do, and OpenCL has no empty launch.
    if (value == 0) return;
    if (value < 0) {
      TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << name_ << "\" is launched with the extent " << value;
    }
    extent[layout_.extents[i]] = static_cast<size_t>(value);
  }
  const size_t* local = extent + 3;
  const size_t global[3] = {extent[0] * local[0], extent[1] * local[1], extent[2] * local[2]};

  Device& device = Device::At(Device::Current());
  Queue& queue = device.queue();
  std::lock_guard lock(mutex_);
  const Built& built = Build(device);
  CheckWorkGroup(device, built, local);
  SetArguments(device, built.kernel, arguments);
  const cl_int code = queue.Submit(name_, [&](cl_command_queue commands, cl_event* event) {
    return device.api.clEnqueueNDRangeKernel(commands, built.kernel, layout_.dimensions, nullptr, global,
                                             local, 0, nullptr, event);
  });
  if (code != kSuccess) [[unlikely]]
    ThrowError(code, "clEnqueueNDRangeKernel", Subject(device));
  queue.CountLaunch();
}

std::string Kernel::Describe(Device& device) {
  std::lock_guard lock(mutex_);
  const Built& built = Build(device);
  cl_ulong local = 0, private_bytes = 0;
  device.api.clGetKernelWorkGroupInfo(built.kernel, device.id, kKernelLocalMemSize, sizeof(local), &local,
                                      nullptr);
  device.api.clGetKernelWorkGroupInfo(built.kernel, device.id, kKernelPrivateMemSize, sizeof(private_bytes),
                                      &private_bytes, nullptr);
  return JsonObject()
      .Add("kernel", name_)
      .Add("work_group_size", static_cast<uint64_t>(built.work_group_size))
      .Add("local_bytes", local)
      .Add("private_bytes", private_bytes)
      .Finish();
}

}  // namespace ddimcache::opencl
