// Queue, memory, program cache, module and profile from several threads at once, for the sanitizers: they see
// what a wrong answer would not show. `ddimcache_stress ROUNDS`; the folder of the cache is DDIMCACHE_CACHE.

#include <tvm/ffi/error.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "copy.h"
#include "memory.h"
#include "program.h"
#include "program_cache.h"
#include "program_file.h"
#include "programs.h"

namespace ddimcache::opencl::testing {
namespace {

constexpr int kThreads = 4;
constexpr size_t kItems = 256;

void Expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

// Runs work(0) … work(kThreads - 1) at once; throws what the first of them threw.
void InThreads(const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  std::vector<std::exception_ptr> failures(kThreads);
  for (int index = 0; index < kThreads; ++index) {
    threads.emplace_back([&, index] {
      try {
        work(index);
      } catch (...) {
        failures[static_cast<size_t>(index)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& failure : failures) {
    if (failure != nullptr) std::rethrow_exception(failure);
  }
}

class Buffer {
 public:
  Buffer(Device& device, size_t bytes, Allocation allocation = {})
      : memory_(AllocateBuffer(device, bytes, allocation)) {}
  ~Buffer() { Free(memory_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Memory* memory() const { return memory_; }

 private:
  Memory* memory_;
};

void FillAndCheck(Device& device, const tvm::ffi::Function& fill, int value) {
  const Buffer out(device, kItems * sizeof(int32_t), {.pooled = true});
  fill(static_cast<void*>(out.memory()), static_cast<int64_t>(value), static_cast<int64_t>(kItems / 64),
       int64_t{64});
  std::vector<int32_t> values(kItems);
  CopyToHost(out.memory(), 0, values.data(), kItems * sizeof(int32_t));
  for (const int32_t found : values) Expect(found == value, "a kernel wrote another launch's value");
}

// One kernel with other arguments in every thread, with and without a profile that starts and stops.
void Launches(Device& device, int rounds) {
  const tvm::ffi::Module module = MakeModule(MakeContent({Fill("fill")}));
  const tvm::ffi::Function fill = module->GetFunction("fill").value();
  std::atomic<bool> profile{true};
  std::thread profiler([&] {
    while (profile) {
      device.queue().ProfileStart();
      std::this_thread::yield();
      device.queue().ProfileStop().SummaryJson();
    }
  });
  std::exception_ptr failure;
  try {
    InThreads([&](int thread) {
      for (int round = 0; round < rounds; ++round) FillAndCheck(device, fill, 1000 * thread + round);
    });
  } catch (...) {
    failure = std::current_exception();
  }
  profile = false;
  profiler.join();
  if (failure != nullptr) std::rethrow_exception(failure);
}

// More commands than the queue holds, without a wait between them.
void Depth(Device& device) {
  const tvm::ffi::Module module = MakeModule(MakeContent({Fill("deep")}));
  const tvm::ffi::Function fill = module->GetFunction("deep").value();
  InThreads([&](int thread) {
    const Buffer out(device, kItems * sizeof(int32_t));
    for (int round = 0; round < 600; ++round) {
      fill(static_cast<void*>(out.memory()), static_cast<int64_t>(1000 * thread + round), int64_t{4},
           int64_t{64});
    }
    int32_t last = 0;
    CopyToHost(out.memory(), 0, &last, sizeof(last));
    Expect(last == 1000 * thread + 599, "launches of a thread ran out of order");
  });
}

void Allocations(Device& device, int rounds) {
  InThreads([&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread));
    for (int round = 0; round < rounds; ++round) {
      std::vector<unsigned char> bytes(1 + random() % 20000), back(bytes.size());
      for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
      const Allocation allocation{.pooled = random() % 2 == 0};
      const Buffer one(device, bytes.size(), allocation), other(device, bytes.size(), allocation);
      CopyToDevice(bytes.data(), one.memory(), 0, bytes.size());
      CopyOnDevice(one.memory(), 0, other.memory(), 0, bytes.size());
      CopyToHost(other.memory(), 0, back.data(), back.size());
      Expect(back == bytes, "copies changed the bytes");
    }
  });
}

// Whole files are found or none, while others write and evict the same ones.
void CacheFiles(const Device& device, int rounds) {
  InThreads([&](int thread) {
    std::mt19937 random(static_cast<unsigned>(thread));
    for (int round = 0; round < rounds; ++round) {
      const unsigned which = random() % 12;
      const std::string key = ProgramKey(device.info, "", "source " + std::to_string(which));
      const std::string binary(2000 + 100 * which, static_cast<char>('a' + which));
      if (random() % 3 == 0) KeepProgram(key, binary);
      const std::optional<std::string> found = FindProgram(key);
      Expect(!found || *found == binary, "the cache gave out another program");
      ProgramCacheJson();
    }
  });
}

// Every thread prepares and launches the kernels of the same modules, which come from the cache or not.
void Modules(Device& device, int rounds) {
  for (int round = 0; round < rounds; ++round) {
    std::vector<KernelText> kernels;
    for (int i = 0; i < 4; ++i) kernels.push_back(Fill("fill" + std::to_string(i)));
    const tvm::ffi::Module module = MakeModule(ParseModule(SerializeModule(MakeContent(kernels))));
    InThreads([&](int thread) {
      if (thread % 2 == 0) {
        const auto prepare = module->GetFunction("ddimcache.prepare").value();
        Expect(prepare(0, int64_t{2}, tvm::ffi::Optional<tvm::ffi::Function>()).cast<int64_t>() == 4,
               "a module has four kernels");
      }
      for (const KernelText& kernel : kernels) {
        FillAndCheck(device, module->GetFunction(kernel.name).value(), thread);
      }
      module->GetFunction("ddimcache.describe_kernels").value()(0);
    });
    KeepPrograms(2);
  }
}

int Run(int rounds) {
  Device& device = Device::At(0);
  std::printf("stress on %s\n", device.Describe().c_str());
  const std::pair<const char*, std::function<void()>> parts[] = {
      {"launches", [&] { Launches(device, rounds); }},
      {"depth", [&] { Depth(device); }},
      {"allocations", [&] { Allocations(device, rounds); }},
      {"cache files", [&] { CacheFiles(device, rounds); }},
      {"modules", [&] { Modules(device, 3); }},
  };
  for (const auto& [name, part] : parts) {
    part();
    std::printf("%s: right\n", name);
    std::fflush(stdout);
  }
  device.Synchronise();
  return 0;
}

}  // namespace
}  // namespace ddimcache::opencl::testing

int main(int count, char** arguments) {
  try {
    return ddimcache::opencl::testing::Run(count > 1 ? std::atoi(arguments[1]) : 100);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ddimcache_stress: %s\n", error.what());
    return 1;
  }
}
