#include "source_repair.h"

#include <array>
#include <cctype>
#include <string_view>
#include <vector>

namespace ddimcache::opencl {
namespace {

bool IsName(char letter) {
  return std::isalnum(static_cast<unsigned char>(letter)) != 0 || letter == '_';
}

// Position behind the parenthesis that closes the one at `open`, or npos.
size_t BehindClosing(std::string_view text, size_t open) {
  size_t depth = 0;
  for (size_t at = open; at < text.size(); ++at) {
    if (text[at] == '(') ++depth;
    if (text[at] == ')' && --depth == 0) return at + 1;
  }
  return std::string_view::npos;
}

std::string_view WithoutParentheses(std::string_view text) {
  for (;;) {
    while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
    while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
    if (text.empty() || text.front() != '(' || BehindClosing(text, 0) != text.size()) return text;
    text = text.substr(1, text.size() - 2);
  }
}

// Calls `visit(position)` for every character outside of parentheses.
template <typename Visit>
void ForEachOutside(std::string_view text, Visit visit) {
  size_t depth = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == ')' && depth > 0) --depth;
    if (depth == 0) visit(at);
    if (text[at] == '(') ++depth;
  }
}

// The code generator puts every operation in parentheses, so one operator at most is outside of them.
bool IsComparison(std::string_view text) {
  text = WithoutParentheses(text);
  if (text.empty()) return false;
  if (text.front() == '!') return true;
  constexpr std::array<std::string_view, 8> kOperators = {
      " < ", " > ", " <= ", " >= ", " == ", " != ", " && ", " || "};
  bool found = false;
  ForEachOutside(text, [&](size_t at) {
    for (const std::string_view name : kOperators) found |= text.substr(at).starts_with(name);
  });
  return found;
}

// "convert_int4" and its like: a conversion to a vector.
bool IsVectorConversion(std::string_view name) {
  return name.starts_with("convert_") && std::isdigit(static_cast<unsigned char>(name.back())) != 0;
}

bool IsVectorMask(std::string_view text) {
  text = WithoutParentheses(text);
  const size_t open = text.find('(');
  return open != std::string_view::npos && BehindClosing(text, open) == text.size() &&
         IsVectorConversion(text.substr(0, open));
}

std::vector<std::string_view> SplitArguments(std::string_view text) {
  std::vector<std::string_view> arguments;
  size_t begin = 0;
  ForEachOutside(text, [&](size_t at) {
    if (text[at] != ',') return;
    arguments.push_back(text.substr(begin, at - begin));
    begin = at + 1;
  });
  arguments.push_back(text.substr(begin));
  return arguments;
}

std::string Repair(std::string_view text) {
  std::string result;
  for (size_t at = 0; at < text.size();) {
    if (!IsName(text[at])) {
      result += text[at++];
      continue;
    }
    size_t end = at;
    while (end < text.size() && IsName(text[end])) ++end;
    const std::string_view name = text.substr(at, end - at);
    result += name;
    at = end;
    const bool is_select = name == "select";
    if ((!is_select && !IsVectorConversion(name)) || at == text.size() || text[at] != '(') continue;
    const size_t behind = BehindClosing(text, at);
    if (behind == std::string_view::npos) continue;
    const std::string_view inside = text.substr(at + 1, behind - at - 2);
    at = behind;
    if (!is_select) {
      const std::string operand = Repair(inside);
      result += IsComparison(inside) ? "((" + operand + ") & 1)" : "(" + operand + ")";
      continue;
    }
    const std::vector<std::string_view> arguments = SplitArguments(inside);
    result += '(';
    for (size_t i = 0; i < arguments.size(); ++i) {
      const std::string argument = Repair(arguments[i]);
      const bool mend = arguments.size() == 3 && i == 2 && IsVectorMask(arguments[i]);
      result += i == 0 ? "" : ",";
      result += mend ? " ((" + argument + ") != 0)" : argument;
    }
    result += ')';
  }
  return result;
}

}  // namespace

std::string RepairVectorMasks(const std::string& source) {
  return Repair(source);
}

}  // namespace ddimcache::opencl
