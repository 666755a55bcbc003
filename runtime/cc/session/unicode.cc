#include "unicode.h"

#include <algorithm>
#include <unordered_map>

#include "../utf8.h"
#include "unicode_tables.h"

namespace ddimcache::session::unicode {
namespace {

// Hangul syllables are made of their parts by arithmetic (Unicode Standard, section 3.12).
constexpr char32_t kSyllableBase = 0xAC00, kLeadBase = 0x1100, kVowelBase = 0x1161, kTrailBase = 0x11A7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTrailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTrailCount;

bool Holds(const Range* ranges, size_t count, char32_t code) {
  const Range* found = std::upper_bound(
      ranges, ranges + count, code, [](char32_t wanted, const Range& range) { return wanted < range.first; });
  return found != ranges && code <= (found - 1)->last;
}

template <typename Row>
const Row* Find(const Row* rows, size_t count, char32_t code) {
  const Row* found = std::lower_bound(rows, rows + count, code,
                                      [](const Row& row, char32_t wanted) { return row.code < wanted; });
  return found != rows + count && found->code == code ? found : nullptr;
}

uint32_t CombiningClass(char32_t code) {
  const Combining* found = Find(kCombining, kCombiningCount, code);
  return found == nullptr ? 0 : found->value;
}

void Decompose(char32_t code, std::u32string* out) {
  if (code - kSyllableBase < kSyllableCount) {
    const uint32_t index = code - kSyllableBase;
    out->push_back(kLeadBase + index / (kVowelCount * kTrailCount));
    out->push_back(kVowelBase + index % (kVowelCount * kTrailCount) / kTrailCount);
    if (index % kTrailCount != 0) out->push_back(kTrailBase + index % kTrailCount);
  } else if (const Decomposition* found = Find(kDecompositions, kDecompositionsCount, code)) {
    Decompose(found->first, out);
    if (found->second != 0) Decompose(found->second, out);
  } else {
    out->push_back(code);
  }
}

// The one code point that two make, or 0.
char32_t Pair(char32_t first, char32_t second) {
  static const auto* pairs = [] {
    auto* made = new std::unordered_map<uint64_t, char32_t>;
    for (size_t index = 0; index < kDecompositionsCount; ++index) {
      const Decomposition& row = kDecompositions[index];
      if (row.composes != 0) (*made)[static_cast<uint64_t>(row.first) << 32 | row.second] = row.code;
    }
    return made;
  }();
  if (first - kLeadBase < kLeadCount && second - kVowelBase < kVowelCount) {
    return kSyllableBase + ((first - kLeadBase) * kVowelCount + (second - kVowelBase)) * kTrailCount;
  }
  const bool is_open = first - kSyllableBase < kSyllableCount && (first - kSyllableBase) % kTrailCount == 0;
  if (is_open && second > kTrailBase && second < kTrailBase + kTrailCount)
    return first + (second - kTrailBase);
  const auto found = pairs->find(static_cast<uint64_t>(first) << 32 | second);
  return found == pairs->end() ? 0 : found->second;
}

}  // namespace

std::optional<std::u32string> FromUtf8(std::string_view bytes) {
  if (!IsUtf8(bytes)) return std::nullopt;
  std::u32string text;
  for (size_t place = 0; place < bytes.size();) {
    const auto lead = static_cast<uint8_t>(bytes[place]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    char32_t code = length == 1 ? lead : lead & (0x7F >> length);
    for (size_t index = 1; index < length; ++index) {
      code = code << 6 | (static_cast<uint8_t>(bytes[place + index]) & 0x3F);
    }
    text.push_back(code);
    place += length;
  }
  return text;
}

std::string ToUtf8(std::u32string_view text) {
  std::string bytes;
  for (const char32_t code : text) AppendUtf8(code, &bytes);
  return bytes;
}

std::u32string Compose(std::u32string_view text) {
  std::u32string apart;
  for (const char32_t code : text) Decompose(code, &apart);
  for (size_t begin = 0; begin < apart.size();) {
    if (CombiningClass(apart[begin]) == 0) {
      ++begin;
      continue;
    }
    size_t end = begin;
    while (end < apart.size() && CombiningClass(apart[end]) != 0) ++end;
    std::stable_sort(
        apart.begin() + static_cast<std::ptrdiff_t>(begin), apart.begin() + static_cast<std::ptrdiff_t>(end),
        [](char32_t one, char32_t other) { return CombiningClass(one) < CombiningClass(other); });
    begin = end;
  }
  std::u32string together;
  size_t starter = std::u32string::npos;
  uint32_t last_class = 0;
  for (const char32_t code : apart) {
    const uint32_t value = CombiningClass(code);
    if (starter != std::u32string::npos) {
      // A mark of the same class, or any starter, between the two keeps them apart.
      const bool adjacent = starter + 1 == together.size();
      const char32_t pair = adjacent || last_class < value ? Pair(together[starter], code) : 0;
      if (pair != 0) {
        together[starter] = pair;
        continue;
      }
    }
    if (value == 0) starter = together.size();
    last_class = value;
    together.push_back(code);
  }
  return together;
}

std::u32string Lower(std::u32string_view text) {
  std::u32string lowered;
  for (const char32_t code : text) {
    const Mapping* found = Find(kLower, kLowerCount, code);
    lowered.push_back(found == nullptr ? code : found->first);
    if (found != nullptr && found->second != 0) lowered.push_back(found->second);
  }
  return lowered;
}

bool IsLetter(char32_t code) {
  return Holds(kLetters, kLettersCount, code);
}
bool IsNumber(char32_t code) {
  return Holds(kNumbers, kNumbersCount, code);
}
bool IsSpace(char32_t code) {
  return Holds(kSpaces, kSpacesCount, code);
}

}  // namespace ddimcache::session::unicode
