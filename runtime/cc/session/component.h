// A component of the bundle on the device, and the set of those that are there at a time.
#pragma once

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>
#include <tvm/runtime/tensor.h>

#include <future>
#include <map>
#include <memory>
#include <string>

#include "bundle.h"
#include "compute_device.h"

namespace ddimcache::session {

// A tensor on the device, its contents not set.
tvm::runtime::Tensor EmptyTensor(const TensorSpec& spec, const ComputeDevice& device);

// A library of the bundle with its weights on the device.
class LoadedComponent {
 public:
  // Throws Failure: BundleError for a library or weights that do not fit, DeviceError for a device that
  // refuses.
  LoadedComponent(const Bundle& bundle, const std::string& name, const ComputeDevice& device);

  // Runs a function of the component with its weights behind `inputs`.
  template <typename... Inputs>
  tvm::ffi::Any Call(const std::string& function, Inputs&&... inputs) const {
    return functions_.at(function)(std::forward<Inputs>(inputs)..., weights_);
  }

  const tvm::ffi::Function& function(const std::string& name) const { return functions_.at(name); }
  // Null where the manifest has no such function of the component.
  const tvm::ffi::Function* Find(const std::string& name) const;
  const tvm::ffi::Array<tvm::ffi::Any>& weights() const { return weights_; }

  // A plain device kernel of the library.
  tvm::ffi::Function Kernel(const std::string& name) const;

 private:
  void LoadLibrary(const Bundle& bundle, const std::string& name, const ComputeDevice& device);
  void LoadWeights(const Bundle& bundle, const ComponentSpec& spec, const ComputeDevice& device);

  std::string library_path_;
  tvm::ffi::Module library_, machine_;
  std::map<std::string, tvm::ffi::Function> functions_;
  tvm::ffi::Array<tvm::ffi::Any> weights_;
};

// Components by name; one that is not there is loaded when it is asked for. Used by one thread.
class Components {
 public:
  Components(const Bundle& bundle, const ComputeDevice& device) : bundle_(bundle), device_(device) {}

  std::shared_ptr<LoadedComponent> Get(const std::string& name);
  // Begins to load on a thread of its own.
  void Prefetch(const std::string& name);
  // Gives memory back, waiting for a load that is under way.
  void Release(const std::string& name);

 private:
  std::shared_ptr<LoadedComponent> Load(const std::string& name) const;

  const Bundle& bundle_;
  const ComputeDevice& device_;
  std::map<std::string, std::shared_ptr<LoadedComponent>> loaded_;
  std::map<std::string, std::future<std::shared_ptr<LoadedComponent>>> coming_;
};

}  // namespace ddimcache::session
