#include "module_bytes.h"

#include <tvm/ffi/error.h>

#include <algorithm>
#include <cstring>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "utf8.h"

namespace ddimcache::opencl {
namespace {

using tvm::ffi::Array;
using tvm::ffi::String;

class Writer {
 public:
  // Least significant byte first, whatever the host's own order.
  template <typename Integer>
  void Number(Integer value) {
    auto bits = static_cast<uint64_t>(static_cast<std::make_unsigned_t<Integer>>(value));
    for (size_t i = 0; i < sizeof(Integer); ++i, bits >>= 8) text_.push_back(static_cast<char>(bits & 0xFF));
  }

  void Text(std::string_view text) {
    Number<uint64_t>(text.size());
    text_.append(text);
  }

  std::string Take() { return std::move(text_); }

 private:
  std::string text_;
};

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename Integer>
  Integer Number(const char* what) {
    Need(sizeof(Integer), what);
    uint64_t bits = 0;
    for (size_t i = 0; i < sizeof(Integer); ++i) {
      bits |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_[position_ + i])) << (8 * i);
    }
    position_ += sizeof(Integer);
    return static_cast<Integer>(bits);
  }

  std::string Text(const char* what) {
    const auto size = Number<uint64_t>(what);
    Need(size, what);
    std::string text(bytes_.substr(position_, size));
    // Python gets these texts as str, and code generators write ASCII.
    if (!IsUtf8(text)) Fail(std::string(what) + " is not UTF-8 text");
    position_ += size;
    return text;
  }

  // A count of items of at least `item_bytes` each: more than fit into what is left is a lie.
  uint64_t Count(size_t item_bytes, const char* what) {
    const auto count = Number<uint64_t>(what);
    if (count > (bytes_.size() - position_) / item_bytes) {
      Fail(std::string(what) + " claims " + std::to_string(count) + " entries, but only " +
           std::to_string(bytes_.size() - position_) + " bytes are left");
    }
    return count;
  }

  void ExpectEnd() {
    if (position_ != bytes_.size()) {
      Fail(std::to_string(bytes_.size() - position_) + " bytes follow the source");
    }
  }

  [[noreturn]] void Fail(const std::string& problem) const {
    TVM_FFI_THROW(ValueError) << "not an OpenCL module, or a damaged one: at byte " << position_ << " of "
                              << bytes_.size() << ", " << problem << ". Compile the model again";
    TVM_FFI_UNREACHABLE();
  }

 private:
  void Need(uint64_t size, const char* what) const {
    if (size > bytes_.size() - position_) {
      Fail(std::string(what) + " needs " + std::to_string(size) + " bytes, but only " +
           std::to_string(bytes_.size() - position_) + " are left");
    }
  }

  std::string_view bytes_;
  size_t position_ = 0;
};

// What a function may be called in OpenCL C; anything else could not have come from a code generator.
bool IsIdentifier(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

FunctionInfo ReadFunction(Reader* reader) {
  auto info = tvm::ffi::make_object<FunctionInfoObj>();
  const std::string name = reader->Text("a function's name");
  if (!IsIdentifier(name)) reader->Fail("a function's name is not an identifier");
  info->name = String(name);
  for (uint64_t left = reader->Count(4, "an argument list"); left > 0; --left) {
    DLDataType type;
    type.code = reader->Number<uint8_t>("an argument's type");
    type.bits = reader->Number<uint8_t>("an argument's type");
    type.lanes = reader->Number<uint16_t>("an argument's type");
    info->argument_types.push_back(type);
  }
  for (uint64_t left = reader->Count(8, "a list of launch tags"); left > 0; --left) {
    info->launch_tags.push_back(String(reader->Text("a launch tag")));
  }
  for (uint64_t left = reader->Count(4, "a list of argument tags"); left > 0; --left) {
    info->argument_tags.push_back(static_cast<ArgumentTag>(reader->Number<int32_t>("an argument tag")));
  }
  return FunctionInfo(std::move(info));
}

}  // namespace

tvm::ffi::Bytes SerializeModule(const ModuleContent& content) {
  // By name, so that equal modules have equal bytes.
  std::vector<std::pair<std::string, FunctionInfo>> functions;
  for (const auto& [name, info] : content.functions) functions.emplace_back(std::string(name), info);
  std::sort(functions.begin(), functions.end(),
            [](const auto& a, const auto& b) { return a.first < b.first; });

  Writer writer;
  writer.Text(content.format);
  writer.Number<uint64_t>(functions.size());
  for (const auto& [name, info] : functions) {
    writer.Text(name);
    writer.Text(std::string_view(info->name.data(), info->name.size()));
    writer.Number<uint64_t>(info->argument_types.size());
    for (DLDataType type : info->argument_types) {
      writer.Number<uint8_t>(type.code);
      writer.Number<uint8_t>(type.bits);
      writer.Number<uint16_t>(type.lanes);
    }
    writer.Number<uint64_t>(info->launch_tags.size());
    for (const String& tag : info->launch_tags) writer.Text(std::string_view(tag.data(), tag.size()));
    writer.Number<uint64_t>(info->argument_tags.size());
    for (ArgumentTag tag : info->argument_tags) writer.Number<int32_t>(static_cast<int32_t>(tag));
  }
  writer.Text(content.source);
  return tvm::ffi::Bytes(writer.Take());
}

ModuleContent ParseModule(const tvm::ffi::Bytes& bytes) {
  Reader reader(std::string_view(bytes.data(), bytes.size()));
  ModuleContent content;
  content.format = reader.Text("the format");
  if (content.format != "cl") reader.Fail("the format is not \"cl\"");
  for (uint64_t left = reader.Count(8, "the table of functions"); left > 0; --left) {
    const std::string key = reader.Text("a function's key");
    FunctionInfo info = ReadFunction(&reader);
    if (std::string_view(info->name.data(), info->name.size()) != key) {
      reader.Fail("a function's key differs from its name");
    }
    if (content.functions.count(String(key)) != 0) reader.Fail("function \"" + key + "\" is there twice");
    content.functions.Set(String(key), std::move(info));
  }
  content.source = reader.Text("the source");
  reader.ExpectEnd();
  return content;
}

}  // namespace ddimcache::opencl
