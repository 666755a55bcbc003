// CLIP's tokenizer: text to the ids that a text encoder reads, as the library `tokenizers` makes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "session.h"

namespace ddimcache::session {

class DDIMCACHE_EXPORT Tokenizer {
 public:
  // `folder` holds tokenizer.json and tokenizer_constants.json of a bundle. Throws a Failure of kind
  // BundleError where one cannot be read, or is another tokenizer than CLIP's byte-level byte-pair encoding.
  explicit Tokenizer(const std::string& folder);

  // `length()` ids: begin, the text's tokens as far as they fit, end, padding. Throws a Failure of kind
  // UsageError for text that is not UTF-8.
  std::vector<int32_t> Encode(std::string_view text) const;
  int length() const { return length_; }

 private:
  struct Special {
    std::u32string text;
    int32_t id;
  };
  struct Merge {
    int32_t rank, id;
  };

  void ReadConstants(const std::string& file);
  void ReadTokenizer(const std::string& file);
  void EncodePlain(std::u32string_view text, std::vector<int32_t>* ids) const;
  void EncodeNormal(std::u32string_view text, std::vector<int32_t>* ids) const;
  void EncodeWord(std::u32string_view word, std::vector<int32_t>* ids) const;

  int length_ = 0;
  int32_t begin_ = 0, end_ = 0, padding_ = 0, unknown_ = 0;
  // Whether "<|startoftext|>" and "<|endoftext|>" end a word where they are not special.
  bool markers_are_words_ = false;
  // Found in the text as it is, and in normal text; longest first.
  std::vector<Special> raw_, normal_;
  // Of a byte inside of a word, and at its end.
  int32_t inside_[256], last_[256];
  // From the ids of two neighbours.
  std::unordered_map<uint64_t, Merge> merges_;
};

}  // namespace ddimcache::session
