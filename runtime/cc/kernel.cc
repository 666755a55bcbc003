#include "kernel.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <utility>

#include "hazards.h"
#include "json.h"
#include "pixel_source.h"
#include "program.h"
#include "recording.h"

namespace ddimcache::opencl {
namespace {

uint64_t PrivateBytes(const Device& device, cl_kernel kernel) {
  cl_ulong bytes = 0;
  device.api.clGetKernelWorkGroupInfo(kernel, device.id, kKernelPrivateMemSize, sizeof(bytes), &bytes,
                                      nullptr);
  return bytes;
}

std::shared_ptr<const KernelSignature> ParseSignature(std::string name, const std::string& source,
                                                      const FunctionInfoObj& info) {
  auto signature = std::make_shared<KernelSignature>();
  signature->name = std::move(name);
  const std::vector<cl_uint> pixels = PixelParameters(source, signature->name);
  for (size_t i = 0; i < info.argument_types.size(); ++i) {
    signature->arguments.push_back(ParseArgument(signature->name, i, info.argument_types[i]));
    Argument& argument = signature->arguments.back();
    if (i < pixels.size() && pixels[i] != 0 && argument.kind == ArgumentKind::kBuffer) {
      argument.kind = ArgumentKind::kPixels;
      argument.channel_type = pixels[i];
    }
  }
  return signature;
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
    : signature_(ParseSignature(std::move(name), source, info)),
      source_(std::move(source)),
      layout_(LaunchLayout::Parse(info)) {}

Kernel::~Kernel() {
  for (auto& [device, built] : built_) {
    if (built.program == nullptr) continue;
    for (cl_kernel kernel : built.idle) device->api.clReleaseKernel(kernel);
    device->api.clReleaseProgram(built.program);
    device->live_programs.fetch_sub(1);
  }
}

std::string Kernel::Subject(const Device& device) const {
  return "of kernel \"" + signature_->name + "\" on " + device.Describe();
}

Kernel::Built& Kernel::On(Device& device) {
  {
    std::shared_lock lock(mutex_);
    const auto known = built_.find(&device);
    if (known != built_.end()) return known->second;
  }
  std::lock_guard lock(mutex_);
  return built_[&device];
}

cl_kernel Kernel::MakeKernel(const Device& device, cl_program program) const {
  cl_int code = kSuccess;
  cl_kernel kernel = device.api.clCreateKernel(program, signature_->name.c_str(), &code);
  Check(code, "clCreateKernel", Subject(device));
  return kernel;
}

void Kernel::Build(Device& device, Built& built) const {
  if (built.program != nullptr) return;
  uint64_t argument_bytes = 0;
  for (const Argument& argument : signature_->arguments) argument_bytes += argument.bytes;
  CheckArguments(device.info, device.Describe(), signature_->name, signature_->arguments.size(),
                 argument_bytes);
  cl_program program = BuildProgram(device, signature_->name, source_);
  cl_kernel kernel = nullptr;
  try {
    kernel = MakeKernel(device, program);
    Check(device.api.clGetKernelWorkGroupInfo(kernel, device.id, kKernelWorkGroupSize,
                                              sizeof(built.work_group_size), &built.work_group_size, nullptr),
          "clGetKernelWorkGroupInfo", Subject(device));
  } catch (...) {
    if (kernel != nullptr) device.api.clReleaseKernel(kernel);
    device.api.clReleaseProgram(program);
    throw;
  }
  built.idle.push_back(kernel);
  built.program = program;
  device.live_programs.fetch_add(1);
}

Kernel::Lease::Lease(const Kernel& owner, Device& device, Built& built) : built_(built) {
  {
    std::lock_guard lock(built_.mutex);
    owner.Build(device, built_);
    if (!built_.idle.empty()) {
      kernel_ = built_.idle.back();
      built_.idle.pop_back();
    }
  }
  if (kernel_ == nullptr) kernel_ = owner.MakeKernel(device, built_.program);
}

Kernel::Lease::~Lease() {
  std::lock_guard lock(built_.mutex);
  built_.idle.push_back(kernel_);
}

void Kernel::SetArguments(const Device& device, cl_kernel kernel, tvm::ffi::PackedArgs arguments,
                          std::vector<cl_mem>* memory) const {
  const auto* values = reinterpret_cast<const TVMFFIAny*>(arguments.data());
  for (size_t i = 0; i < signature_->arguments.size(); ++i) {
    const Argument& argument = signature_->arguments[i];
    const EncodedArgument encoded = EncodeArgument(device, *signature_, i, values[i]);
    const cl_int code = device.api.clSetKernelArg(kernel, static_cast<cl_uint>(i), argument.bytes, &encoded);
    if (code != kSuccess) [[unlikely]] {
      ThrowError(code, "clSetKernelArg", "of argument " + std::to_string(i) + " " + Subject(device));
    }
    if (memory != nullptr && argument.is_memory()) memory->push_back(BufferOf(*signature_, values[i]));
  }
}

void Kernel::CheckWorkGroup(const Device& device, size_t kernel_limit, const size_t* local) const {
  const size_t items = local[0] * local[1] * local[2];
  const auto shape = [&] {
    return std::to_string(local[0]) + "x" + std::to_string(local[1]) + "x" + std::to_string(local[2]);
  };
  if (items > kernel_limit) [[unlikely]] {
    TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << signature_->name
                                << "\" is launched with work-groups of " << items << " work-items ("
                                << shape() << "), but on " << device.Describe() << " this kernel can have "
                                << kernel_limit << " (the device allows " << device.info.max_work_group_size
                                << "): use smaller work-groups, or fewer registers a work-item";
  }
  for (int axis = 0; axis < 3; ++axis) {
    if (local[axis] > device.info.max_work_item_sizes[axis]) [[unlikely]] {
      TVM_FFI_THROW(RuntimeError) << "OpenCL kernel \"" << signature_->name
                                  << "\" is launched with work-groups of " << shape() << ", but "
                                  << device.Describe() << " allows at most "
                                  << device.info.max_work_item_sizes[axis] << " work-items along axis "
                                  << axis;
    }
  }
}

Kernel::Extents Kernel::ReadExtents(tvm::ffi::PackedArgs arguments) const {
  const size_t count = signature_->arguments.size();
  if (static_cast<size_t>(arguments.size()) != count + layout_.extents.size()) {
    TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << signature_->name << "\" takes " << count
                              << " arguments and " << layout_.extents.size() << " launch extents, but got "
                              << arguments.size() << " values";
  }
  size_t extent[6] = {1, 1, 1, 1, 1, 1};
  Extents extents{};
  const auto* values = reinterpret_cast<const TVMFFIAny*>(arguments.data());
  for (size_t i = 0; i < layout_.extents.size(); ++i) {
    const int64_t value = values[count + i].v_int64;
    if (value < 0) {
      TVM_FFI_THROW(ValueError) << "OpenCL kernel \"" << signature_->name << "\" is launched with the extent "
                                << value;
    }
    extents.empty |= value == 0;
    extent[layout_.extents[i]] = static_cast<size_t>(value);
  }
  for (int axis = 0; axis < 3; ++axis) {
    extents.local[axis] = extent[3 + axis];
    extents.global[axis] = extent[axis] * extent[3 + axis];
  }
  return extents;
}

void Kernel::Record(Recording& recording, Device& device, cl_program program, const Extents& extents,
                    tvm::ffi::PackedArgs arguments) const {
  RecordedLaunch launch;
  launch.signature = signature_;
  launch.dimensions = layout_.dimensions;
  std::copy_n(extents.global, 3, launch.global);
  std::copy_n(extents.local, 3, launch.local);
  launch.kernel = MakeKernel(device, program);
  std::vector<cl_mem> memory;
  try {
    SetArguments(device, launch.kernel, arguments, &memory);
  } catch (...) {
    device.api.clReleaseKernel(launch.kernel);
    throw;
  }
  recording.AddLaunch(device, std::move(launch), memory);
}

void Kernel::Launch(tvm::ffi::PackedArgs arguments) {
  const Extents extents = ReadExtents(arguments);
  // A dynamic shape of zero elements: nothing to do, and OpenCL has no empty launch.
  if (extents.empty) return;
  Device& device = Device::At(Device::Current());
  Queue& queue = device.queue();
  Built& built = On(device);
  const Lease lease(*this, device, built);
  CheckWorkGroup(device, built.work_group_size, extents.local);
  if (Recording* recording = Recording::Current()) {
    Record(*recording, device, built.program, extents, arguments);
    return;
  }
  const cl_kernel kernel = lease.kernel();
  SetArguments(device, kernel, arguments, nullptr);
  const cl_int code = queue.Submit(signature_->name, [&](cl_command_queue commands, cl_event* event) {
    return device.api.clEnqueueNDRangeKernel(commands, kernel, layout_.dimensions, nullptr, extents.global,
                                             extents.local, 0, nullptr, event);
  });
  if (code != kSuccess) [[unlikely]]
    ThrowError(code, "clEnqueueNDRangeKernel", Subject(device));
  queue.CountLaunches(1);
}

void Kernel::Prepare(Device& device) {
  const Lease lease(*this, device, On(device));
}

uint64_t Kernel::SpilledBytes(Device& device) {
  if (device.info.hazards.Find(Avoidance::kIgnorePrivateBytes) != nullptr) return 0;
  const Lease lease(*this, device, On(device));
  return PrivateBytes(device, lease.kernel());
}

std::string Kernel::Describe(Device& device) {
  Built& built = On(device);
  const Lease lease(*this, device, built);
  const cl_kernel kernel = lease.kernel();
  cl_ulong local = 0;
  device.api.clGetKernelWorkGroupInfo(kernel, device.id, kKernelLocalMemSize, sizeof(local), &local, nullptr);
  return JsonObject()
      .Add("kernel", signature_->name)
      .Add("work_group_size", static_cast<uint64_t>(built.work_group_size))
      .Add("local_bytes", local)
      .Add("private_bytes", PrivateBytes(device, kernel))
      .Finish();
}

}  // namespace ddimcache::opencl
