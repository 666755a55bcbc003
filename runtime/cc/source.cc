#include "source.h"

#include <set>
#include <string_view>

#include "source_repair.h"

namespace ddimcache::opencl {
namespace {

constexpr std::string_view kMarker = "// Function: ";

// Calls `visit(line)` for every line, each with its line end.
template <typename Visit>
void ForEachLine(const std::string& text, Visit visit) {
  for (size_t begin = 0; begin < text.size();) {
    const size_t line_end = text.find('\n', begin);
    const size_t end = line_end == std::string::npos ? text.size() : line_end + 1;
    visit(std::string_view(text).substr(begin, end - begin));
    begin = end;
  }
}

// Name of the kernel that this line declares without defining, or empty.
std::string_view DeclaredKernel(std::string_view line) {
  constexpr std::string_view kPrefix = "__kernel void ";
  if (!line.starts_with(kPrefix)) return {};
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r' || line.back() == ' '))
    line.remove_suffix(1);
  if (!line.ends_with(");")) return {};
  const size_t open = line.find('(');
  return open == std::string_view::npos ? std::string_view()
                                        : line.substr(kPrefix.size(), open - kPrefix.size());
}

// Name of the function that this line announces, or empty.
std::string_view AnnouncedFunction(std::string_view line) {
  if (!line.starts_with(kMarker)) return {};
  line.remove_prefix(kMarker.size());
  while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.remove_suffix(1);
  return line;
}

}  // namespace

std::string WithoutDeclarations(const std::string& source, const std::vector<std::string>& names) {
  const std::set<std::string_view> known(names.begin(), names.end());
  std::set<std::string_view> defined;
  ForEachLine(source, [&](std::string_view line) {
    const std::string_view name = AnnouncedFunction(line);
    if (known.count(name) != 0) defined.insert(name);
  });
  std::string kept;
  ForEachLine(source, [&](std::string_view line) {
    const std::string_view declared = DeclaredKernel(line);
    if (declared.empty() || defined.count(declared) == 0) kept.append(line);
  });
  return kept;
}

std::map<std::string, std::string> SplitSource(const std::string& source,
                                               const std::vector<std::string>& names) {
  std::string preamble;
  std::map<std::string, std::string> parts;
  std::string* target = &preamble;
  ForEachLine(source, [&](std::string_view line) {
    if (line.starts_with(kMarker)) {
      target = &parts[std::string(AnnouncedFunction(line))];
    } else {
      target->append(line);
    }
  });
  std::map<std::string, std::string> sources;
  for (const std::string& name : names) {
    const auto part = parts.find(name);
    sources[name] = part == parts.end() ? source : preamble + RepairVectorMasks(part->second);
  }
  return sources;
}

}  // namespace ddimcache::opencl
