#include "json_reader.h"

#include <algorithm>
#include <cmath>
#include <locale>
#include <set>
#include <sstream>

#include "../utf8.h"

namespace ddimcache::session {
namespace {

constexpr int kMostDepth = 64;

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json Whole() {
    if (!IsUtf8(text_)) Refuse("it is not UTF-8");
    Json json = Value(0);
    SkipSpace();
    if (at_ != text_.size()) Refuse("more follows the value");
    return json;
  }

 private:
  [[noreturn]] void Refuse(const std::string& problem) const {
    throw JsonProblem("", "not JSON: " + problem + " at byte " + std::to_string(at_));
  }

  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  bool Take(char letter) {
    if (Peek() != letter || at_ == text_.size()) return false;
    ++at_;
    return true;
  }

  bool TakeWord(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  void SkipSpace() {
    while (Peek() == ' ' || Peek() == '\t' || Peek() == '\n' || Peek() == '\r') ++at_;
  }

  Json Value(int depth) {
    if (depth > kMostDepth) Refuse("nested deeper than " + std::to_string(kMostDepth));
    SkipSpace();
    if (Take('{')) return {Object(depth)};
    if (Take('[')) return {List(depth)};
    if (Take('"')) return {Text()};
    if (TakeWord("true")) return {true};
    if (TakeWord("false")) return {false};
    if (TakeWord("null")) return {nullptr};
    for (const char* word : {"NaN", "Infinity", "-Infinity"}) {
      if (TakeWord(word)) throw JsonProblem("", std::string(word) + " is not a finite number");
    }
    return Number();
  }

  Json::Object Object(int depth) {
    Json::Object object;
    std::set<std::string> keys;
    SkipSpace();
    if (Take('}')) return object;
    do {
      SkipSpace();
      if (!Take('"')) Refuse("a key is missing");
      std::string key = Text();
      if (!keys.insert(key).second) throw JsonProblem("", "key '" + key + "' appears twice in one object");
      SkipSpace();
      if (!Take(':')) Refuse("':' is missing");
      Json value = Value(depth + 1);
      object.emplace_back(std::move(key), std::move(value));
      SkipSpace();
    } while (Take(','));
    if (!Take('}')) Refuse("'}' is missing");
    return object;
  }

  Json::List List(int depth) {
    Json::List list;
    SkipSpace();
    if (Take(']')) return list;
    do {
      list.push_back(Value(depth + 1));
      SkipSpace();
    } while (Take(','));
    if (!Take(']')) Refuse("']' is missing");
    return list;
  }

  uint32_t FourDigits() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char digit = Peek();
      if (digit >= '0' && digit <= '9') {
        code = code * 16 + static_cast<uint32_t>(digit - '0');
      } else if ((digit | 0x20) >= 'a' && (digit | 0x20) <= 'f') {
        code = code * 16 + static_cast<uint32_t>((digit | 0x20) - 'a' + 10);
      } else {
        Refuse("a \\u without four digits");
      }
    }
    return code;
  }

  std::string Text() {
    std::string result;
    while (!Take('"')) {
      if (at_ == text_.size()) Refuse("a text without end");
      const char letter = text_[at_++];
      if (static_cast<unsigned char>(letter) < 0x20) Refuse("a control character in a text");
      if (letter != '\\') {
        result += letter;
        continue;
      }
      if (at_ == text_.size()) Refuse("a text without end");
      const char escape = text_[at_++];
      static constexpr std::string_view kEscapes = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
      if (escape == 'u') {
        uint32_t code = FourDigits();
        if (code >= 0xD800 && code < 0xDC00 && TakeWord("\\u")) {
          const uint32_t low = FourDigits();
          if (low < 0xDC00 || low > 0xDFFF) Refuse("half a pair of surrogates");
          code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
        if (code >= 0xD800 && code < 0xE000) Refuse("half a pair of surrogates");
        AppendUtf8(code, &result);
      } else if (const size_t index = kEscapes.find(escape); index != kEscapes.npos) {
        result += kMeanings[index];
      } else {
        Refuse("an unknown escape");
      }
    }
    return result;
  }

  size_t Digits() {
    const size_t begin = at_;
    while (Peek() >= '0' && Peek() <= '9') ++at_;
    return at_ - begin;
  }

  Json Number() {
    const size_t begin = at_;
    Take('-');
    const size_t first = at_;
    const size_t digits = Digits();
    if (digits == 0) Refuse("a value is missing");
    if (digits > 1 && text_[first] == '0') Refuse("a number with a leading zero");
    bool whole = true;
    if (Take('.')) {
      whole = false;
      if (Digits() == 0) Refuse("a '.' without digits");
    }
    if (Take('e') || Take('E')) {
      whole = false;
      if (!Take('+')) Take('-');
      if (Digits() == 0) Refuse("an exponent without digits");
    }
    const std::string number(text_.substr(begin, at_ - begin));
    // A stream of the classic locale: strtod would follow the locale of the program.
    std::istringstream stream(number);
    stream.imbue(std::locale::classic());
    if (whole) {
      int64_t value = 0;
      if (!(stream >> value)) throw JsonProblem("", number + " is too large for a whole number");
      return {value};
    }
    double value = 0;
    // A number too small for a double becomes 0 and sets the stream's error as one too large does.
    if (!(stream >> value) && std::abs(value) > 1) throw JsonProblem("", number + " is not a finite number");
    return {value};
  }

  std::string_view text_;
  size_t at_ = 0;
};

std::string Shown(double value) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());
  stream << value;
  return stream.str();
}

}  // namespace

Json Json::Parse(std::string_view text) {
  return Parser(text).Whole();
}

std::string Place::Found() const {
  struct Namer {
    std::string operator()(std::nullptr_t) const { return "null"; }
    std::string operator()(bool) const { return "true or false"; }
    std::string operator()(int64_t) const { return "a number"; }
    std::string operator()(double value) const { return Shown(value); }
    std::string operator()(const std::string&) const { return "a text"; }
    std::string operator()(const Json::List&) const { return "a list"; }
    std::string operator()(const Json::Object&) const { return "an object"; }
  };
  return std::visit(Namer{}, json_->value);
}

int64_t Place::Integer(int64_t least) const {
  const auto* value = std::get_if<int64_t>(&json_->value);
  if (value == nullptr) Refuse("expected a whole number, found " + Found());
  if (*value < least) {
    Refuse("is " + std::to_string(*value) + ", below the least allowed, " + std::to_string(least));
  }
  return *value;
}

double Place::Number() const {
  double value = 0;
  if (const auto* number = std::get_if<double>(&json_->value)) {
    value = *number;
  } else if (const auto* whole = std::get_if<int64_t>(&json_->value)) {
    value = static_cast<double>(*whole);
  } else {
    Refuse("expected a finite number, found " + Found());
  }
  if (!(std::abs(value) < 1e300)) Refuse("expected a finite number, found " + Found());
  return value;
}

double Place::Number(double least) const {
  const double value = Number();
  if (value < least) Refuse("is " + Shown(value) + ", below the least allowed, " + Shown(least));
  return value;
}

double Place::Number(double least, double most) const {
  const double value = Number(least);
  if (value > most) Refuse("is " + Shown(value) + ", above the most allowed, " + Shown(most));
  return value;
}

bool Place::Boolean() const {
  const auto* value = std::get_if<bool>(&json_->value);
  if (value == nullptr) Refuse("expected true or false, found " + Found());
  return *value;
}

const std::string& Place::Text(size_t least_length) const {
  const auto* value = std::get_if<std::string>(&json_->value);
  if (value == nullptr) Refuse("expected a text, found " + Found());
  if (value->size() < least_length) {
    Refuse("has length " + std::to_string(value->size()) + ", below the least allowed, " +
           std::to_string(least_length));
  }
  return *value;
}

const std::string& Place::Choice(std::initializer_list<const char*> choices) const {
  const auto* value = std::get_if<std::string>(&json_->value);
  if (value != nullptr && std::find(choices.begin(), choices.end(), *value) != choices.end()) return *value;
  std::string list;
  for (const char* choice : choices) list += (list.empty() ? "" : ", ") + std::string(choice);
  Refuse((value != nullptr ? "'" + *value + "'" : Found()) + " is none of: " + list);
}

std::vector<Place> Place::Items() const {
  const auto* list = std::get_if<Json::List>(&json_->value);
  if (list == nullptr) Refuse("expected a list, found " + Found());
  std::vector<Place> items;
  for (size_t i = 0; i < list->size(); ++i) {
    items.emplace_back((*list)[i], where_ + "[" + std::to_string(i) + "]");
  }
  return items;
}

std::vector<Place> Place::Items(size_t count) const {
  std::vector<Place> items = Items();
  if (items.size() != count) {
    Refuse("expected " + std::to_string(count) + " items, found " + std::to_string(items.size()));
  }
  return items;
}

const Json::Object& Place::AsObject() const {
  const auto* object = std::get_if<Json::Object>(&json_->value);
  if (object == nullptr) Refuse("expected an object, found " + Found());
  return *object;
}

std::vector<std::pair<std::string, Place>> Place::Entries() const {
  std::vector<std::pair<std::string, Place>> entries;
  for (const auto& [key, value] : AsObject()) entries.emplace_back(key, Place(value, Inner(key)));
  return entries;
}

Fields Place::Object(std::initializer_list<const char*> required,
                     std::initializer_list<const char*> optional) const {
  const Json::Object& object = AsObject();
  const auto names = [](std::initializer_list<const char*> list, const std::string& key) {
    return std::find(list.begin(), list.end(), key) != list.end();
  };
  for (const auto& [key, value] : object) {
    if (!names(required, key) && !names(optional, key)) Refuse("unknown key '" + key + "'");
  }
  for (const char* key : required) {
    const bool found =
        std::any_of(object.begin(), object.end(), [&](const auto& entry) { return entry.first == key; });
    if (!found) Refuse("key '" + std::string(key) + "' is missing");
  }
  return Fields(*this);
}

Place Fields::operator[](const char* key) const {
  for (const auto& [name, value] : place_.AsObject()) {
    if (name == key) return Place(value, place_.Inner(name));
  }
  place_.Refuse("key '" + std::string(key) + "' is missing");
}

std::optional<Place> Fields::Find(const char* key) const {
  for (const auto& [name, value] : place_.AsObject()) {
    if (name == key) return Place(value, place_.Inner(name));
  }
  return std::nullopt;
}

std::optional<Place> Fields::FindUnlessNull(const char* key) const {
  const std::optional<Place> place = Find(key);
  return place.has_value() && place->IsNull() ? std::nullopt : place;
}

}  // namespace ddimcache::session
