#include "source_patterns.h"

#include <algorithm>
#include <cctype>
#include <map>
#include <set>
#include <string_view>
#include <vector>

namespace ddimcache::opencl {
namespace {

struct Token {
  std::string_view text;
  size_t line;
};

bool IsWord(char character) {
  return std::isalnum(static_cast<unsigned char>(character)) != 0 || character == '_';
}

// Words and single punctuation marks, without comments, strings and preprocessor lines.
std::vector<Token> Tokens(std::string_view text) {
  std::vector<Token> tokens;
  size_t line = 1;
  bool at_line_begin = true;
  for (size_t at = 0; at < text.size();) {
    const char character = text[at];
    if (character == '\n') {
      ++line, ++at;
      at_line_begin = true;
      continue;
    }
    if (std::isspace(static_cast<unsigned char>(character)) != 0) {
      ++at;
      continue;
    }
    const std::string_view rest = text.substr(at);
    if (rest.starts_with("//") || (character == '#' && at_line_begin)) {
      // A backslash at the end carries the line on.
      while (at < text.size() && (text[at] != '\n' || text[at - 1] == '\\')) line += text[at++] == '\n';
      continue;
    }
    if (rest.starts_with("/*")) {
      const size_t close = text.find("*/", at + 2);
      const size_t end = close == std::string_view::npos ? text.size() : close + 2;
      for (; at < end; ++at) line += text[at] == '\n';
      continue;
    }
    at_line_begin = false;
    size_t end = at + 1;
    if (character == '"') {
      while (end < text.size() && text[end] != '"' && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
      at = std::min(end + 1, text.size());
      continue;
    }
    if (IsWord(character)) {
      while (end < text.size() && IsWord(text[end])) ++end;
    }
    tokens.push_back({text.substr(at, end - at), line});
    at = end;
  }
  return tokens;
}

const std::set<std::string_view> kScalars = {"char", "uchar", "short", "ushort", "int",   "uint",
                                             "long", "ulong", "half",  "float",  "double"};

// "float4" is element "float" and 4 lanes, "float" has 1; another word has 0.
struct Type {
  std::string_view element;
  int lanes = 0;
};

Type AsType(std::string_view word) {
  const size_t digits = word.find_first_of("0123456789");
  const std::string_view element = word.substr(0, digits);
  if (kScalars.count(element) == 0) return {};
  if (digits == std::string_view::npos) return {element, 1};
  const std::string_view count = word.substr(digits);
  for (const int lanes : {2, 3, 4, 8, 16}) {
    if (count == std::to_string(lanes)) return {element, lanes};
  }
  return {};
}

bool IsQualifier(std::string_view word) {
  static const std::set<std::string_view> qualifiers = {
      "global", "__global",  "local",    "__local",  "constant",   "__constant", "private",
      "const",  "__private", "volatile", "restrict", "__restrict", "unsigned",   "signed"};
  return qualifiers.count(word) != 0;
}

bool IsVectorLoad(std::string_view word) {
  return word.starts_with("vload") && word.size() > 5 &&
         std::isdigit(static_cast<unsigned char>(word[5])) != 0;
}

std::string At(const Token& token) {
  return " (line " + std::to_string(token.line) + ")";
}

class Scan {
 public:
  explicit Scan(std::string_view source) : tokens_(Tokens(source)) {}

  SourcePatterns Run() {
    ReadDeclarations();
    SourcePatterns patterns;
    const Token* wide = nullptr;
    const Token* load = nullptr;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view word = tokens_[i].text;
      if (wide == nullptr && (word == "long" || word == "ulong" || word == "size_t" || word == "ptrdiff_t")) {
        wide = &tokens_[i];
      }
      if (load == nullptr && IsVectorLoad(word)) load = &tokens_[i];
      if (patterns.cast_load.empty()) patterns.cast_load = CastLoad(i);
    }
    if (wide != nullptr && load != nullptr) {
      patterns.wide_indices = "64-bit integers" + At(*wide) + " and " + std::string(load->text) + At(*load);
    }
    patterns.helper = Helper();
    return patterns;
  }

 private:
  std::string_view Word(size_t index) const {
    return index < tokens_.size() ? tokens_[index].text : std::string_view();
  }

  // Element types of pointers and arrays: `float* restrict name`, `float4 name[`.
  void ReadDeclarations() {
    for (size_t i = 0; i + 1 < tokens_.size(); ++i) {
      const Type type = AsType(Word(i));
      if (type.lanes == 0) continue;
      size_t next = i + 1;
      bool pointer = false;
      while (Word(next) == "*" || IsQualifier(Word(next))) pointer |= Word(next++) == "*";
      const std::string_view name = Word(next);
      if (name.empty() || !IsWord(name[0]) || (!pointer && Word(next + 1) != "[")) continue;
      elements_.emplace(name, type.element);
    }
  }

  // "(__global float4*)(name" or "(float*)name" at `i`, where name's elements are of another type, and the
  // loaded thing is a vector.
  std::string CastLoad(size_t i) const {
    if (Word(i) != "(") return "";
    size_t next = i + 1;
    while (IsQualifier(Word(next))) ++next;
    const Type type = AsType(Word(next));
    if (type.lanes == 0 || Word(next + 1) != "*" || Word(next + 2) != ")") return "";
    size_t name = next + 3;
    while (Word(name) == "(" || Word(name) == "&") ++name;
    const auto declared = elements_.find(Word(name));
    if (declared == elements_.end() || declared->second == type.element) return "";
    if (type.lanes == 1 && !InsideVectorLoad(i)) return "";
    return std::string(declared->second) + " \"" + std::string(declared->first) + "\" loaded as vector of " +
           std::string(type.element) + At(tokens_[i]);
  }

  // Whether `i` stands in the arguments of a vload.
  bool InsideVectorLoad(size_t i) const {
    int depth = 0;
    while (i-- > 0 && Word(i) != ";" && Word(i) != "{") {
      if (Word(i) == ")") ++depth;
      if (Word(i) == "(" && depth-- == 0) {
        if (i > 0 && IsVectorLoad(Word(i - 1))) return true;
        depth = 0;
      }
    }
    return false;
  }

  // The first function that is defined without being a kernel.
  std::string Helper() const {
    int braces = 0;
    bool kernel = false;
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const std::string_view word = Word(i);
      if (braces == 0 && (word == "kernel" || word == "__kernel")) kernel = true;
      if (braces == 0 && word == "{" && i > 0 && Word(i - 1) == ")" && !kernel) {
        const Token& name = tokens_[BeforeParentheses(i - 1)];
        return "function \"" + std::string(name.text) + "\" is defined" + At(name);
      }
      if (word == "{") ++braces;
      if (word == "}") --braces;
      if (braces == 0 && (word == "}" || word == ";")) kernel = false;
    }
    return "";
  }

  // The token before the "(" that the ")" at `close` closes.
  size_t BeforeParentheses(size_t close) const {
    int depth = 0;
    for (size_t i = close; i > 0; --i) {
      if (Word(i) == ")") ++depth;
      if (Word(i) == "(" && --depth == 0) return i - 1;
    }
    return 0;
  }

  const std::vector<Token> tokens_;
  std::map<std::string_view, std::string_view> elements_;
};

}  // namespace

SourcePatterns FindPatterns(const std::string& source) {
  return Scan(source).Run();
}

}  // namespace ddimcache::opencl
