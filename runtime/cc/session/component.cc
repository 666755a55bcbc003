#include "component.h"

#include <tvm/ffi/error.h>
#include <tvm/runtime/memory/memory_manager.h>

#include <vector>

#include "../memory_kind.h"
#include "safetensors.h"
#include "session.h"

namespace ddimcache::session {
namespace {

using tvm::ffi::Any;
using tvm::ffi::Function;
using tvm::ffi::Module;
using tvm::runtime::Tensor;

DLDataType ScalarType(const std::string& dtype) {
  if (dtype == "float32") return {kDLFloat, 32, 1};
  if (dtype == "float16") return {kDLFloat, 16, 1};
  if (dtype == "int32") return {kDLInt, 32, 1};
  if (dtype == "int8") return {kDLInt, 8, 1};
  return {kDLUInt, 8, 1};
}

// What a message says, without the trace in front of it.
std::string LastLine(const std::string& text) {
  const size_t end = text.find_last_not_of(" \n");
  if (end == std::string::npos) return "no reason given";
  const size_t begin = text.rfind('\n', end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1,
                     end - (begin == std::string::npos ? -1 : begin));
}

Function FunctionOf(Module module, const std::string& name) {
  const auto function = module->GetFunction(name);
  if (!function.has_value()) TVM_FFI_THROW(AttributeError) << "the library has no function " << name;
  return function.value();
}

}  // namespace

Tensor EmptyTensor(const TensorSpec& spec, const ComputeDevice& device) {
  return Tensor::Empty(tvm::ffi::Shape(spec.shape), ScalarType(spec.dtype), device.handle());
}

LoadedComponent::LoadedComponent(const Bundle& bundle, const std::string& name, const ComputeDevice& device)
    : library_path_(bundle.path(bundle.manifest.components.at(name).library).string()),
      library_(tvm::ffi::UnsafeInit{}),
      machine_(tvm::ffi::UnsafeInit{}) {
  device.MakeCurrent();
  LoadLibrary(bundle, name, device);
  LoadWeights(bundle, bundle.manifest.components.at(name), device);
}

void LoadedComponent::LoadLibrary(const Bundle& bundle, const std::string& name,
                                  const ComputeDevice& device) {
  try {
    library_ = Module::LoadFromFile(library_path_);
    machine_ = FunctionOf(library_, "vm_load_executable")().cast<Module>();
    constexpr int kPooled = tvm::runtime::memory::kPooled;
    const DLDevice handle = device.handle();
    const Function initialise = FunctionOf(machine_, "vm_initialization");
    // Shape functions run on the CPU, so it comes last where it is not the device itself.
    if (handle.device_type == kDLCPU) {
      initialise(static_cast<int>(handle.device_type), handle.device_id, kPooled);
    } else {
      initialise(static_cast<int>(handle.device_type), handle.device_id, kPooled, static_cast<int>(kDLCPU), 0,
                 kPooled);
    }
    for (const auto& entry : bundle.manifest.components.at(name).functions) {
      functions_.emplace(entry.first, FunctionOf(machine_, entry.first));
    }
  } catch (const tvm::ffi::Error& error) {
    throw Failure("BundleError", "cannot be loaded: " + LastLine(std::string(error.message())), library_path_,
                  "it was compiled for host " + bundle.manifest.host + " and device " +
                      bundle.manifest.device_kind + "; see `ddimcache doctor`");
  }
}

void LoadedComponent::LoadWeights(const Bundle& bundle, const ComponentSpec& spec,
                                  const ComputeDevice& device) {
  const SafetensorsFile file(bundle.path(spec.weights_file), spec.weights);
  const opencl::MemoryKindScope kind(opencl::MemoryKind::kWeights);
  std::vector<char> staging;
  for (const Weight& weight : spec.weights) {
    Tensor tensor = EmptyTensor(weight.spec, device);
    if (device.opencl() == nullptr) {
      file.Read(weight, tensor->data);
    } else {
      staging.resize(weight.spec.bytes());
      file.Read(weight, staging.data());
      tensor.CopyFromBytes(staging.data(), staging.size());
    }
    weights_.push_back(tensor);
  }
}

const Function* LoadedComponent::Find(const std::string& name) const {
  const auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : &found->second;
}

Function LoadedComponent::Kernel(const std::string& name) const {
  const auto kernel = const_cast<Module&>(library_)->GetFunction(name, true);
  if (!kernel.has_value()) {
    throw Failure("BundleError", "has no kernel " + name, library_path_, kCompileAgain);
  }
  return kernel.value();
}

std::shared_ptr<LoadedComponent> Components::Load(const std::string& name) const {
  return std::make_shared<LoadedComponent>(bundle_, name, device_);
}

std::shared_ptr<LoadedComponent> Components::Get(const std::string& name) {
  if (const auto coming = coming_.find(name); coming != coming_.end()) {
    auto future = std::move(coming->second);
    coming_.erase(coming);
    loaded_[name] = future.get();
  }
  auto& component = loaded_[name];
  if (component == nullptr) component = Load(name);
  return component;
}

void Components::Prefetch(const std::string& name) {
  if (loaded_[name] != nullptr || coming_.count(name)) return;
  coming_[name] = std::async(std::launch::async, [this, name] { return Load(name); });
}

void Components::Release(const std::string& name) {
  // Where loading fails, nobody is left to be told.
  coming_.erase(name);
  loaded_.erase(name);
  device_.ReleaseIdle();
}

}  // namespace ddimcache::session
