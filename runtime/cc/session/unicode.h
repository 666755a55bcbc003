// The part of Unicode that CLIP's tokenizer uses, as the library `tokenizers` does it.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace ddimcache::session::unicode {

// Nothing where the bytes are not UTF-8 (overlong forms and surrogates are not).
std::optional<std::u32string> FromUtf8(std::string_view bytes);
std::string ToUtf8(std::u32string_view text);

// Canonical composition (NFC).
std::u32string Compose(std::u32string_view text);
// Every code point by itself, whatever is next to it.
std::u32string Lower(std::u32string_view text);

bool IsLetter(char32_t code);
bool IsNumber(char32_t code);
bool IsSpace(char32_t code);

}  // namespace ddimcache::session::unicode
