#include "tokenizer.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <queue>
#include <sstream>

#include "json_reader.h"
#include "unicode.h"

namespace ddimcache::session {
namespace {

constexpr char kEndOfWord[] = "</w>";
constexpr std::u32string_view kMarkers[] = {U"<|startoftext|>", U"<|endoftext|>"};

// The only stages that are understood; whatever else a file asks for is refused.
constexpr char kNormalizer[] =
    R"({"type": "Sequence", "normalizers": [{"type": "NFC"},
        {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}]})";
constexpr char kPattern[] = R"('s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+)";
constexpr char kMarkerPattern[] = R"(<\|startoftext\|>|<\|endoftext\|>|)";
constexpr char kByteLevel[] = R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                                  "use_regex": true})";

std::string ReadFile(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream text;
  text << stream.rdbuf();
  if (!stream) throw JsonProblem("", "it cannot be read");
  return text.str();
}

bool Same(const Json& one, const Json& other) {
  if (one.value.index() != other.value.index()) return false;
  if (const auto* list = std::get_if<Json::List>(&one.value)) {
    const auto& others = std::get<Json::List>(other.value);
    return std::equal(list->begin(), list->end(), others.begin(), others.end(), Same);
  }
  if (const auto* object = std::get_if<Json::Object>(&one.value)) {
    const auto& others = std::get<Json::Object>(other.value);
    return object->size() == others.size() &&
           std::all_of(object->begin(), object->end(), [&](const auto& entry) {
             return std::any_of(others.begin(), others.end(), [&](const auto& candidate) {
               return candidate.first == entry.first && Same(candidate.second, entry.second);
             });
           });
  }
  if (const auto* text = std::get_if<std::string>(&one.value))
    return *text == std::get<std::string>(other.value);
  if (const auto* flag = std::get_if<bool>(&one.value)) return *flag == std::get<bool>(other.value);
  if (const auto* whole = std::get_if<int64_t>(&one.value)) return *whole == std::get<int64_t>(other.value);
  if (const auto* number = std::get_if<double>(&one.value)) return *number == std::get<double>(other.value);
  return true;
}

const Json& Member(const Json::Object& object, const std::string& key, const std::string& where) {
  for (const auto& [name, value] : object) {
    if (name == key) return value;
  }
  throw JsonProblem(where, "key '" + key + "' is missing");
}

const Json::Object& ObjectAt(const Json& json, const std::string& where) {
  const auto* object = std::get_if<Json::Object>(&json.value);
  if (object == nullptr) throw JsonProblem(where, "expected an object");
  return *object;
}

void Expect(const Json::Object& object, const std::string& key, const std::string& where,
            const char* wanted) {
  if (!Same(Member(object, key, where), Json::Parse(wanted))) {
    throw JsonProblem(where.empty() ? key : where + "." + key, "this is not CLIP's tokenizer");
  }
}

int32_t TokenId(const Place& place) {
  const int64_t id = place.Integer(0);
  if (id > std::numeric_limits<int32_t>::max()) place.Refuse("is above the largest id, 2^31 - 1");
  return static_cast<int32_t>(id);
}

// GPT-2's stand-ins: printable bytes are themselves, the others the code points from 256 on.
std::vector<std::string> ByteSymbols() {
  std::vector<std::string> symbols(256);
  char32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte > 32 && byte < 127) || (byte > 160 && byte != 173);
    symbols[byte] = unicode::ToUtf8(std::u32string(1, printable ? byte : next++));
  }
  return symbols;
}

std::u32string Normal(std::u32string_view text) {
  std::u32string spaced;
  bool in_space = false;
  for (const char32_t code : unicode::Compose(text)) {
    const bool space = unicode::IsSpace(code);
    if (!space) spaced.push_back(code);
    if (space && !in_space) spaced.push_back(U' ');
    in_space = space;
  }
  return unicode::Lower(spaced);
}

// Length of the word that begins the text, as the pattern above says; 0 where none does.
size_t WordLength(std::u32string_view text) {
  for (const std::u32string_view ending : {U"'s", U"'t", U"'re", U"'ve", U"'m", U"'ll", U"'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  if (unicode::IsNumber(text[0])) return 1;
  const auto run = [&](auto belongs) {
    return static_cast<size_t>(std::find_if_not(text.begin(), text.end(), belongs) - text.begin());
  };
  if (unicode::IsLetter(text[0])) return run(unicode::IsLetter);
  return run([](char32_t code) {
    return !unicode::IsSpace(code) && !unicode::IsLetter(code) && !unicode::IsNumber(code);
  });
}

}  // namespace

Tokenizer::Tokenizer(const std::string& folder) {
  const auto read = [&](const char* name, void (Tokenizer::*reader)(const std::string&)) {
    const std::string file = folder + "/" + name;
    try {
      (this->*reader)(file);
    } catch (const JsonProblem& problem) {
      throw Failure("BundleError", problem.what(), file, "compile the bundle again");
    }
  };
  read("tokenizer_constants.json", &Tokenizer::ReadConstants);
  read("tokenizer.json", &Tokenizer::ReadTokenizer);
}

void Tokenizer::ReadConstants(const std::string& file) {
  const Json json = Json::Parse(ReadFile(file));
  const Fields fields = Place(json, "").Object({"max_length", "bos_id", "eos_id", "pad_id", "pad_token"});
  length_ = static_cast<int>(fields["max_length"].Integer(3));
  if (length_ > 1 << 20) fields["max_length"].Refuse("is above 2^20");
  begin_ = TokenId(fields["bos_id"]);
  end_ = TokenId(fields["eos_id"]);
  padding_ = TokenId(fields["pad_id"]);
}

void Tokenizer::ReadTokenizer(const std::string& file) {
  const Json json = Json::Parse(ReadFile(file));
  const Json::Object& root = ObjectAt(json, "");
  Expect(root, "normalizer", "", kNormalizer);
  const Json::Object& splitting = ObjectAt(Member(root, "pre_tokenizer", ""), "pre_tokenizer");
  const std::string split_before = R"({"type": "Split", "pattern": {"Regex": ")";
  const std::string split_behind = R"("}, "behavior": "Removed", "invert": true})";
  const auto stages = [&](const std::string& pattern) {
    std::string escaped;
    for (const char letter : pattern) escaped += letter == '\\' ? "\\\\" : std::string(1, letter);
    return "[" + split_before + escaped + split_behind + ", " + kByteLevel + "]";
  };
  const Json& found_stages = Member(splitting, "pretokenizers", "pre_tokenizer");
  markers_are_words_ = Same(found_stages, Json::Parse(stages(std::string(kMarkerPattern) + kPattern)));
  Expect(splitting, "type", "pre_tokenizer", "\"Sequence\"");
  if (!markers_are_words_) Expect(splitting, "pretokenizers", "pre_tokenizer", stages(kPattern).c_str());
  const Json::Object& processor = ObjectAt(Member(root, "post_processor", ""), "post_processor");
  Expect(processor, "type", "post_processor", "\"RobertaProcessing\"");
  const auto end_item = [&](const char* key) {
    return Place(Member(processor, key, "post_processor"), std::string("post_processor.") + key)
        .Items(2)[1]
        .Integer(0);
  };
  if (end_item("cls") != begin_ || end_item("sep") != end_) {
    throw JsonProblem("post_processor", "its ids are not those of the constants");
  }

  const Json::Object& model = ObjectAt(Member(root, "model", ""), "model");
  Expect(model, "type", "model", "\"BPE\"");
  Expect(model, "dropout", "model", "null");
  Expect(model, "continuing_subword_prefix", "model", "\"\"");
  Expect(model, "end_of_word_suffix", "model", "\"</w>\"");
  for (const char* key : {"fuse_unk", "byte_fallback", "ignore_merges"}) Expect(model, key, "model", "false");
  std::unordered_map<std::string, int32_t> vocabulary;
  for (const auto& [token, id] : Place(Member(model, "vocab", "model"), "model.vocab").Entries()) {
    vocabulary[token] = TokenId(id);
  }
  const auto id_of = [&](const std::string& token, const Place& place) {
    const auto found = vocabulary.find(token);
    if (found == vocabulary.end()) place.Refuse("the token '" + token + "' is not in the vocabulary");
    return found->second;
  };
  const Place unknown(Member(model, "unk_token", "model"), "model.unk_token");
  unknown_ = id_of(unknown.Text(), unknown);
  const std::vector<std::string> symbols = ByteSymbols();
  for (size_t byte = 0; byte < 256; ++byte) {
    const auto inside = vocabulary.find(symbols[byte]), last = vocabulary.find(symbols[byte] + kEndOfWord);
    inside_[byte] = inside == vocabulary.end() ? unknown_ : inside->second;
    last_[byte] = last == vocabulary.end() ? unknown_ : last->second;
  }
  int32_t rank = 0;
  for (const Place& merge : Place(Member(model, "merges", "model"), "model.merges").Items()) {
    const std::vector<Place> pair = merge.Items(2);
    const std::string first = pair[0].Text(), second = pair[1].Text();
    const auto key =
        static_cast<uint64_t>(id_of(first, pair[0])) << 32 | static_cast<uint32_t>(id_of(second, pair[1]));
    // The library keeps the last of equal ones.
    merges_[key] = {rank++, id_of(first + second, merge)};
  }

  for (const Place& place : Place(Member(root, "added_tokens", ""), "added_tokens").Items()) {
    const Fields token =
        place.Object({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const char* key : {"single_word", "lstrip", "rstrip"}) {
      if (token[key].Boolean()) token[key].Refuse("true is not understood");
    }
    const std::optional<std::u32string> text = unicode::FromUtf8(token["content"].Text(1));
    if (!text) token["content"].Refuse("is not UTF-8");
    const bool normalized = token["normalized"].Boolean();
    (normalized ? normal_ : raw_).push_back({normalized ? Normal(*text) : *text, TokenId(token["id"])});
  }
  for (auto* list : {&raw_, &normal_}) {
    std::stable_sort(list->begin(), list->end(), [](const Special& one, const Special& other) {
      return one.text.size() > other.text.size();
    });
  }
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text) const {
  const std::optional<std::u32string> codes = unicode::FromUtf8(text);
  if (!codes) throw Failure("UsageError", "is not UTF-8", "prompt");
  std::vector<int32_t> ids = {begin_};
  EncodePlain(*codes, &ids);
  ids.resize(std::min(ids.size(), static_cast<size_t>(length_ - 1)));
  ids.push_back(end_);
  ids.resize(static_cast<size_t>(length_), padding_);
  return ids;
}

namespace {

// Cuts the text at the special tokens: `other` gets what lies between them, `special` their ids.
template <typename Specials, typename Other, typename Found>
void CutAt(const Specials& specials, std::u32string_view text, Other other, Found special) {
  size_t begin = 0;
  for (size_t place = 0; place < text.size();) {
    const auto found = std::find_if(specials.begin(), specials.end(), [&](const auto& candidate) {
      return text.substr(place).starts_with(candidate.text);
    });
    if (found == specials.end()) {
      ++place;
      continue;
    }
    other(text.substr(begin, place - begin));
    special(found->id);
    begin = place += found->text.size();
  }
  other(text.substr(begin));
}

}  // namespace

void Tokenizer::EncodePlain(std::u32string_view text, std::vector<int32_t>* ids) const {
  const auto keep = [&](int32_t id) { ids->push_back(id); };
  CutAt(
      raw_, text,
      [&](std::u32string_view part) {
        const std::u32string normal = Normal(part);
        CutAt(normal_, normal, [&](std::u32string_view rest) { EncodeNormal(rest, ids); }, keep);
      },
      keep);
}

void Tokenizer::EncodeNormal(std::u32string_view text, std::vector<int32_t>* ids) const {
  while (!text.empty()) {
    size_t length = 0;
    if (markers_are_words_) {
      for (const std::u32string_view marker : kMarkers) {
        if (text.starts_with(marker)) length = marker.size();
      }
    }
    if (length != 0) {
      // One word for the first pattern, three for the one that follows it: <| startoftext |>
      EncodeWord(text.substr(0, 2), ids);
      EncodeWord(text.substr(2, length - 4), ids);
      EncodeWord(text.substr(length - 2, 2), ids);
    } else if (length = WordLength(text); length != 0) {
      EncodeWord(text.substr(0, length), ids);
    } else {
      length = 1;  // a space
    }
    text.remove_prefix(length);
  }
}

void Tokenizer::EncodeWord(std::u32string_view word, std::vector<int32_t>* ids) const {
  const std::string bytes = unicode::ToUtf8(word);
  struct Piece {
    int32_t id;
    int64_t before, after;
  };
  const auto count = static_cast<int64_t>(bytes.size());
  std::vector<Piece> pieces;
  for (int64_t place = 0; place < count; ++place) {
    const auto byte = static_cast<uint8_t>(bytes[static_cast<size_t>(place)]);
    const bool is_last = place + 1 == count;
    pieces.push_back({is_last ? last_[byte] : inside_[byte], place - 1, is_last ? -1 : place + 1});
  }
  // The best merge of two neighbours that is possible: lowest rank, then leftmost.
  struct Candidate {
    int32_t rank;
    int64_t place;
    int32_t id;
    bool operator<(const Candidate& other) const {
      return std::pair(rank, place) > std::pair(other.rank, other.place);
    }
  };
  std::priority_queue<Candidate> candidates;
  const auto at = [&](int64_t place) -> Piece& { return pieces[static_cast<size_t>(place)]; };
  const auto merge_at = [&](int64_t place) -> const Merge* {
    if (place < 0 || at(place).id < 0 || at(place).after < 0) return nullptr;
    const auto found = merges_.find(static_cast<uint64_t>(at(place).id) << 32 |
                                    static_cast<uint32_t>(at(at(place).after).id));
    return found == merges_.end() ? nullptr : &found->second;
  };
  const auto offer = [&](int64_t place) {
    if (const Merge* merge = merge_at(place)) candidates.push({merge->rank, place, merge->id});
  };
  for (int64_t place = 0; place < count; ++place) offer(place);
  while (!candidates.empty()) {
    const Candidate best = candidates.top();
    candidates.pop();
    const Merge* merge = merge_at(best.place);
    // One of the two has been merged with another meanwhile.
    if (merge == nullptr || merge->id != best.id) continue;
    Piece& left = at(best.place);
    Piece& right = at(left.after);
    left.id = best.id;
    right.id = -1;
    left.after = right.after;
    if (left.after >= 0) at(left.after).before = best.place;
    offer(left.before);
    offer(best.place);
  }
  for (int64_t place = 0; place >= 0 && place < count; place = at(place).after) ids->push_back(at(place).id);
}

}  // namespace ddimcache::session
