// Reading JSON that nobody vouches for. TVM's own parser takes NaN, keys twice, and any depth until the stack
// ends; a manifest and a header of weights are refused for each of these.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace ddimcache::session {

// What does not fit, and the dotted path to it: "components.unet.functions.full.inputs[0].dtype".
class JsonProblem : public std::runtime_error {
 public:
  JsonProblem(const std::string& where, const std::string& problem)
      : std::runtime_error(where.empty() ? problem : where + ": " + problem) {}
};

struct Json {
  using List = std::vector<Json>;
  // In the order of the text.
  using Object = std::vector<std::pair<std::string, Json>>;

  std::variant<std::nullptr_t, bool, int64_t, double, std::string, List, Object> value = nullptr;

  // Strict: one value, no key twice, nothing that is not finite, whole numbers of 64 bits at most, text in
  // UTF-8, depth of 64 at most. Throws JsonProblem.
  static Json Parse(std::string_view text);
};

class Fields;

// A value and where it is. Each reader throws JsonProblem for a value of another type or out of range.
class Place {
 public:
  Place(const Json& json, std::string where) : json_(&json), where_(std::move(where)) {}

  int64_t Integer(int64_t least) const;
  double Number() const;
  double Number(double least) const;
  double Number(double least, double most) const;
  bool Boolean() const;
  const std::string& Text(size_t least_length = 0) const;
  // One of `choices`.
  const std::string& Choice(std::initializer_list<const char*> choices) const;
  std::vector<Place> Items() const;
  std::vector<Place> Items(size_t count) const;
  // Key and value of an object whose keys are free.
  std::vector<std::pair<std::string, Place>> Entries() const;
  // An object with exactly these keys, of which the optional ones may be missing.
  Fields Object(std::initializer_list<const char*> required,
                std::initializer_list<const char*> optional = {}) const;
  bool IsNull() const { return std::holds_alternative<std::nullptr_t>(json_->value); }

  [[noreturn]] void Refuse(const std::string& problem) const { throw JsonProblem(where_, problem); }

 private:
  friend class Fields;
  const Json::Object& AsObject() const;
  std::string Inner(const std::string& key) const { return where_.empty() ? key : where_ + "." + key; }
  // "a number", "true or false", and for a fraction the number itself
  std::string Found() const;

  const Json* json_;
  std::string where_;
};

class Fields {
 public:
  explicit Fields(const Place& place) : place_(place) {}
  // Only for keys that the object was checked to have.
  Place operator[](const char* key) const;
  // Nothing for a key that is missing.
  std::optional<Place> Find(const char* key) const;
  // Nothing for a key that is missing or null.
  std::optional<Place> FindUnlessNull(const char* key) const;

 private:
  Place place_;
};

}  // namespace ddimcache::session
