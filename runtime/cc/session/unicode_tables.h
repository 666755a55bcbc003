// What the tokenizer has to know of Unicode; every table is sorted by its first column.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ddimcache::session::unicode {

struct Range {
  uint32_t first, last;
};

// `second` is 0 where the code point becomes one other.
struct Mapping {
  uint32_t code, first, second;
};

struct Combining {
  uint32_t code, value;
};

// `second` is 0 where the code point stands for one other; `composes` where the two make it again.
struct Decomposition {
  uint32_t code, first, second, composes;
};

extern const Range kLetters[], kNumbers[], kSpaces[];
extern const size_t kLettersCount, kNumbersCount, kSpacesCount;
extern const Mapping kLower[];
extern const size_t kLowerCount;
extern const Combining kCombining[];
extern const size_t kCombiningCount;
extern const Decomposition kDecompositions[];
extern const size_t kDecompositionsCount;

}  // namespace ddimcache::session::unicode
