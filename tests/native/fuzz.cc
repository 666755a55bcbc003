// Damaged inputs for what reads bytes from outside: `ddimcache_fuzz program|module COUNT [SEED]`. Every input
// is a good one with up to eight random changes, half of them with a checksum made right again, so that what
// lies behind it is reached. A read outside is for the address sanitizer to see; here it is checked that
// nothing but the expected error comes out, and that what is accepted is what was written.

#include <tvm/ffi/error.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "program_cache.h"
#include "program_file.h"
#include "programs.h"

namespace ddimcache::opencl::testing {
namespace {

void Expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  size_t Below(size_t bound) { return bound == 0 ? 0 : random_() % bound; }

  std::string Change(std::string bytes, const std::string& other) {
    for (size_t changes = 1 + Below(8); changes > 0; --changes) ChangeOnce(&bytes, other);
    return bytes;
  }

 private:
  void ChangeOnce(std::string* bytes, const std::string& other) {
    const size_t at = Below(bytes->size() + 1), length = Below(bytes->size() - at + 1);
    switch (Below(8)) {
      case 0:
        if (at < bytes->size()) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << Below(8)));
        return;
      case 1:
        if (at < bytes->size()) (*bytes)[at] = static_cast<char>(random_());
        return;
      case 2:
        bytes->resize(at);
        return;
      case 3:
        bytes->erase(at, std::min<size_t>(length, 64));
        return;
      case 4:
        bytes->insert(at, bytes->substr(at, std::min<size_t>(length, 64)));
        return;
      case 5: {
        const size_t from = Below(other.size() + 1);
        bytes->insert(at, other.substr(from, Below(64)));
        return;
      }
      case 6:
        *bytes = bytes->substr(0, at) + other.substr(std::min(at, other.size()));
        return;
      default:
        Number(bytes, at);
    }
  }

  // A length that is a lie.
  void Number(std::string* bytes, size_t at) {
    const uint64_t size = bytes->size();
    const uint64_t numbers[] = {0,
                                1,
                                size,
                                size - at,
                                size - at - 8,
                                ~uint64_t{0},
                                1ull << 63,
                                1ull << 32,
                                ~uint64_t{0} - 7,
                                size + 1,
                                at,
                                random_()};
    const uint64_t number = numbers[Below(std::size(numbers))];
    if (at + sizeof(number) <= size) std::memcpy(bytes->data() + at, &number, sizeof(number));
  }

  std::mt19937_64 random_;
};

struct Count {
  uint64_t refused = 0, accepted = 0;
};

uint64_t Fnv1a(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3;
  return hash;
}

void MendChecksum(std::string* file) {
  if (file->size() < sizeof(uint64_t)) return;
  const uint64_t sum = Fnv1a(std::string_view(*file).substr(0, file->size() - sizeof(uint64_t)));
  for (size_t i = 0; i < sizeof(sum); ++i) {
    (*file)[file->size() - sizeof(sum) + i] = static_cast<char>((sum >> (8 * i)) & 0xFF);
  }
}

// Through the disk now and then, because reading is a part of it.
void WriteFile(const std::string& path, const std::string& bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  Expect(file != nullptr, path + " cannot be written: set DDIMCACHE_CACHE to a folder of its own");
  Expect(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && std::fclose(file) == 0,
         path + " could not be written");
}

Count FuzzPrograms(uint64_t inputs, Mutator* mutator) {
  DeviceInfo device;
  device.name = "a device", device.driver_version = "1.0";
  const std::string key = ProgramKey(device, "-cl-mad-enable", "__kernel void kern() { }");
  const std::string other_key = ProgramKey(device, "", "__kernel void other() { }");
  const std::string binary = "binary \x01\x02\x03 of a driver" + std::string(200, '\x7F');
  const std::string good = EncodeProgram(key, binary), other = EncodeProgram(other_key, "another binary");
  const char* cache = std::getenv("DDIMCACHE_CACHE");
  Expect(cache != nullptr, "DDIMCACHE_CACHE is not set");
  const std::string path = std::string(cache) + "/programs/" + ProgramFileName(key);
  KeepProgram(key, binary);
  Expect(FindProgram(key) == binary, "a good file is not found");
  Count count;
  for (uint64_t i = 0; i < inputs; ++i) {
    const bool mended = mutator->Below(2) == 0;
    std::string file = mutator->Change(mutator->Below(4) == 0 ? other : good, other);
    if (mended) MendChecksum(&file);
    const bool disk = i % 10 == 0;
    if (disk) WriteFile(path, file);
    const std::optional<std::string> found = disk ? FindProgram(key) : DecodeProgram(file, key);
    ++(found ? count.accepted : count.refused);
    if (found && mended) Expect(EncodeProgram(key, *found) == file, "a file of another layout was accepted");
    if (found && !mended) Expect(file == good, "a damaged file was accepted");
  }
  return count;
}

Count FuzzModules(uint64_t inputs, Mutator* mutator) {
  const auto bytes_of = [](const ModuleContent& content) {
    const tvm::ffi::Bytes bytes = SerializeModule(content);
    return std::string(bytes.data(), bytes.size());
  };
  const std::vector<std::string> seeds = {
      bytes_of(MakeContent({Fill("fill")})),
      bytes_of(MakeContent(
          {Fill("one"), Fill("two"), {"three", {"float32", "handle"}, "__kernel void three();"}})),
      bytes_of(MakeContent({}))};
  Count count;
  for (uint64_t i = 0; i < inputs; ++i) {
    const std::string& seed = seeds[mutator->Below(seeds.size())];
    const std::string input = mutator->Change(seed, seeds[mutator->Below(seeds.size())]);
    try {
      const ModuleContent content = ParseModule(tvm::ffi::Bytes(input));
      const tvm::ffi::Module module = MakeModule(content);
      const std::string written = bytes_of(content);
      Expect(bytes_of(ParseModule(tvm::ffi::Bytes(written))) == written,
             "a module changes when it is written");
      for (const auto& [name, info] : content.functions) {
        Expect(module->GetFunction(name).has_value(), "a module does not have a function that it lists");
      }
      ++count.accepted;
    } catch (const tvm::ffi::Error& error) {
      Expect(error.kind() == "ValueError", "refused by an error of another kind: " + error.message());
      ++count.refused;
    }
  }
  return count;
}

int Run(const std::string& what, uint64_t inputs, uint64_t seed) {
  Mutator mutator(seed);
  if (what != "program" && what != "module") {
    std::fputs("ddimcache_fuzz program|module COUNT [SEED]\n", stderr);
    return 2;
  }
  const Count count = what == "program" ? FuzzPrograms(inputs, &mutator) : FuzzModules(inputs, &mutator);
  std::printf("%s: %llu inputs of seed %llu, %llu refused, %llu accepted as what they are\n", what.c_str(),
              static_cast<unsigned long long>(inputs), static_cast<unsigned long long>(seed),
              static_cast<unsigned long long>(count.refused),
              static_cast<unsigned long long>(count.accepted));
  return 0;
}

}  // namespace
}  // namespace ddimcache::opencl::testing

int main(int count, char** arguments) {
  try {
    const uint64_t inputs = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 0;
    const uint64_t seed = count > 3 ? std::strtoull(arguments[3], nullptr, 10) : 1;
    return ddimcache::opencl::testing::Run(count > 1 ? arguments[1] : "", inputs, seed);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ddimcache_fuzz: %s\n", error.what());
    return 1;
  }
}
