#include "pixel_source.h"

#include <array>
#include <cctype>
#include <string_view>
#include <utility>

namespace ddimcache::opencl {
namespace {

struct Channel {
  std::string_view element;
  std::string_view name;
  cl_uint type;
};

constexpr std::array<Channel, 3> kChannels = {Channel{"half", "CL_HALF_FLOAT", kChannelHalfFloat},
                                              Channel{"float", "CL_FLOAT", kChannelFloat},
                                              Channel{"char", "CL_SNORM_INT8", kChannelSnormInt8}};
constexpr std::string_view kKernel = "__kernel void ";
constexpr std::string_view kImage = "image1d_buffer_t";

bool IsName(char letter) {
  return std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '_';
}

// Where the parameters of the next kernel from `from` on begin and end, and its name; both npos behind the
// last. Parameters of kernels have no parentheses.
struct Parameters {
  std::string_view name;
  size_t begin = std::string_view::npos, end = std::string_view::npos;
};

Parameters NextKernel(std::string_view source, size_t from) {
  const size_t start = source.find(kKernel, from);
  if (start == std::string_view::npos) return {};
  const size_t name = start + kKernel.size();
  const size_t open = source.find('(', name);
  if (open == std::string_view::npos) return {};
  const size_t close = source.find(')', open);
  if (close == std::string_view::npos) return {};
  return {source.substr(name, open - name), open + 1, close};
}

std::vector<std::string_view> SplitAtCommas(std::string_view text) {
  std::vector<std::string_view> parts;
  if (text.find_first_not_of(' ') == std::string_view::npos) return parts;
  for (size_t begin = 0;;) {
    const size_t comma = text.find(',', begin);
    parts.push_back(text.substr(begin, comma == std::string_view::npos ? comma : comma - begin));
    if (comma == std::string_view::npos) return parts;
    begin = comma + 1;
  }
}

std::string_view LastWord(std::string_view text) {
  size_t end = text.size();
  while (end > 0 && !IsName(text[end - 1])) --end;
  size_t begin = end;
  while (begin > 0 && IsName(text[begin - 1])) --begin;
  return text.substr(begin, end - begin);
}

bool ReadsPixels(std::string_view body, std::string_view name) {
  for (const std::string_view call : {"read_imageh(", "read_imagef("}) {
    for (size_t at = body.find(call); at != std::string_view::npos; at = body.find(call, at + 1)) {
      const std::string_view operand = body.substr(at + call.size());
      if (operand.starts_with(name) && operand.size() > name.size() && operand[name.size()] == ',')
        return true;
    }
  }
  return false;
}

std::string DeclareParameter(std::string_view parameter, std::string_view body) {
  constexpr std::string_view kGlobal = "__global ";
  const size_t global = parameter.find(kGlobal);
  const std::string_view name = LastWord(parameter);
  if (global == std::string_view::npos || !ReadsPixels(body, name)) return std::string(parameter);
  const std::string_view element = parameter.substr(global + kGlobal.size());
  for (const Channel& channel : kChannels) {
    if (!element.starts_with(channel.element) || element.substr(channel.element.size(), 1) != "*") continue;
    return std::string(parameter.substr(0, global)) + "__read_only " + std::string(kImage) + " " +
           std::string(name) + " /* " + std::string(channel.name) + " */";
  }
  return std::string(parameter);
}

}  // namespace

std::string DeclarePixels(const std::string& source) {
  const std::string_view text = source;
  std::string result;
  size_t done = 0;
  for (Parameters kernel = NextKernel(text, 0); kernel.begin != std::string_view::npos;) {
    const Parameters next = NextKernel(text, kernel.end);
    const std::string_view body = text.substr(kernel.end, next.begin - kernel.end);
    result += text.substr(done, kernel.begin - done);
    bool first = true;
    for (const std::string_view parameter :
         SplitAtCommas(text.substr(kernel.begin, kernel.end - kernel.begin))) {
      result += (first ? "" : ",") + DeclareParameter(parameter, body);
      first = false;
    }
    done = kernel.end;
    kernel = next;
  }
  return result += text.substr(done);
}

std::vector<cl_uint> PixelParameters(const std::string& source, const std::string& kernel) {
  const std::string_view text = source;
  std::vector<cl_uint> types;
  for (Parameters found = NextKernel(text, 0); found.begin != std::string_view::npos;
       found = NextKernel(text, found.end)) {
    if (found.name != kernel) continue;
    for (const std::string_view parameter :
         SplitAtCommas(text.substr(found.begin, found.end - found.begin))) {
      cl_uint type = 0;
      if (parameter.find(kImage) != std::string_view::npos) {
        for (const Channel& channel : kChannels) {
          if (parameter.find(channel.name) != std::string_view::npos) type = channel.type;
        }
      }
      types.push_back(type);
    }
    break;
  }
  return types;
}

}  // namespace ddimcache::opencl
