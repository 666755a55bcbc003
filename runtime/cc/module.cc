#include "module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/error.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "hazards.h"
#include "pixel_source.h"
#include "source.h"

namespace ddimcache::opencl {
namespace {

bool WantsSpills() {
  const char* chosen = std::getenv("DDIMCACHE_REPORT_SPILLS");
  return chosen != nullptr && std::strcmp(chosen, "1") == 0;
}

}  // namespace

OpenClModule::OpenClModule(ModuleContent content) : content_(std::move(content)) {
  if (content_.format != "cl") {
    TVM_FFI_THROW(ValueError) << "OpenCL modules hold OpenCL C (format \"cl\"), not \"" << content_.format
                              << "\"";
  }
  std::vector<std::string> names;
  for (const auto& [name, info] : content_.functions) names.emplace_back(name);
  content_.source = DeclarePixels(WithoutDeclarations(content_.source, names));
  std::map<std::string, std::string> sources = SplitSource(content_.source, names);
  for (const auto& [key, info] : content_.functions) {
    const std::string name = key;
    kernels_[name] = std::make_unique<Kernel>(name, std::move(sources[name]), *info.get());
  }
}

tvm::ffi::Optional<tvm::ffi::Function> OpenClModule::GetFunction(const tvm::ffi::String& name) {
  // The function keeps the module alive, and with it the kernel.
  tvm::ffi::ObjectPtr<OpenClModule> self = tvm::ffi::GetObjectPtr<OpenClModule>(this);
  if (name == "ddimcache.describe_kernels") {
    return tvm::ffi::Function::FromTyped([self](int device_id) {
      Device& device = Device::At(device_id);
      std::string rows;
      for (auto& [kernel_name, kernel] : self->kernels_) {
        if (!rows.empty()) rows += ", ";
        rows += kernel->Describe(device);
      }
      return tvm::ffi::String("[" + rows + "]");
    });
  }
  if (name == "ddimcache.prepare") {
    return tvm::ffi::Function::FromTyped(
        [self](int device_id, int64_t threads, tvm::ffi::Optional<tvm::ffi::Function> progress) {
          return self->Prepare(device_id, threads, progress);
        });
  }
  const auto entry = kernels_.find(name);
  if (entry == kernels_.end()) return std::nullopt;
  Kernel* kernel = entry->second.get();
  if (WantsSpills()) {
    return tvm::ffi::Function::FromPacked([self, kernel](tvm::ffi::PackedArgs arguments, tvm::ffi::Any*) {
      self->ReportSpills(Device::At(Device::Current()));
      kernel->Launch(arguments);
    });
  }
  return tvm::ffi::Function::FromPacked(
      [self, kernel](tvm::ffi::PackedArgs arguments, tvm::ffi::Any*) { kernel->Launch(arguments); });
}

int64_t OpenClModule::Prepare(int device_id, int64_t threads,
                              const tvm::ffi::Optional<tvm::ffi::Function>& progress) {
  Device& device = Device::At(device_id);
  std::vector<Kernel*> kernels;
  for (auto& [name, kernel] : kernels_) kernels.push_back(kernel.get());
  if (threads < 0 || threads > 256) {
    TVM_FFI_THROW(ValueError) << "kernels are prepared in 1 to 256 threads (0: one a processor), not "
                              << threads;
  }
  if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());

  std::mutex mutex;
  std::condition_variable changed;
  size_t next = 0, done = 0, running = 0;
  std::exception_ptr failure;
  const auto work = [&] {
    std::unique_lock lock(mutex);
    while (next < kernels.size() && failure == nullptr) {
      Kernel* kernel = kernels[next++];
      lock.unlock();
      std::exception_ptr problem;
      try {
        kernel->Prepare(device);
      } catch (...) {
        problem = std::current_exception();
      }
      lock.lock();
      ++done;
      if (problem != nullptr && failure == nullptr) failure = problem;
      changed.notify_all();
    }
    --running;
    changed.notify_all();
  };
  std::vector<std::thread> workers;
  running = std::min(kernels.size(), static_cast<size_t>(threads));
  for (size_t i = running; i > 0; --i) workers.emplace_back(work);
  {
    std::unique_lock lock(mutex);
    for (size_t told = 0; running > 0 || told < done;) {
      changed.wait(lock, [&] { return running == 0 || told < done; });
      if (told == done) continue;
      told = done;
      if (!progress.has_value() || failure != nullptr) continue;
      lock.unlock();
      std::exception_ptr problem;
      try {
        progress.value()(static_cast<int64_t>(told), static_cast<int64_t>(kernels.size()));
      } catch (...) {
        problem = std::current_exception();
      }
      lock.lock();
      if (problem != nullptr && failure == nullptr) failure = problem;
    }
  }
  for (std::thread& worker : workers) worker.join();
  if (failure != nullptr) std::rethrow_exception(failure);
  if (WantsSpills()) ReportSpills(device);
  return static_cast<int64_t>(kernels.size());
}

void OpenClModule::ReportSpills(Device& device) {
  std::call_once(spills_reported_, [&] {
    std::string names;
    for (auto& [name, kernel] : kernels_) {
      const uint64_t bytes = kernel->SpilledBytes(device);
      if (bytes == 0) continue;
      names += (names.empty() ? "" : ", ") + name + " (" + std::to_string(bytes) + " bytes)";
    }
    if (!names.empty()) Warn("on " + device.Describe() + " registers spill to memory in " + names);
  });
}

tvm::ffi::String OpenClModule::InspectSource(const tvm::ffi::String& format) const {
  return format.empty() || format == "cl" ? tvm::ffi::String(content_.source) : tvm::ffi::String();
}

}  // namespace ddimcache::opencl
