#include "families/gguf/gguf_vocabulary.h"

#include <limits>
#include <type_traits>

#include "base/error.h"

namespace coterie::families {

namespace {

using base::ErrorKind;
using checkpoint::MetaValue;

constexpr std::string_view kWholeTokenizer = "tokenizer.huggingface.json";

/// The keys tokenizer.ggml.* of one file.
class Keys {
 public:
  explicit Keys(const checkpoint::TensorSource& source) : source_(source) {}

  std::string string(const std::string& key, const std::string& otherwise) const {
    const MetaValue* value = find(key);
    return value ? as<std::string>(key, *value) : otherwise;
  }
  std::vector<std::string> strings(const std::string& key) const {
    const MetaValue* value = find(key);
    return value ? as<std::vector<std::string>>(key, *value) : std::vector<std::string>();
  }
  std::optional<bool> boolean(const std::string& key) const {
    const MetaValue* value = find(key);
    return value ? std::optional(as<bool>(key, *value)) : std::nullopt;
  }
  std::optional<text::TokenId> id(const std::string& key) const {
    const MetaValue* value = find(key);
    if (!value) return {};
    int64_t id = -1;
    if (const auto* s = std::get_if<int64_t>(value)) id = *s;
    if (const auto* u = std::get_if<uint64_t>(value))
      if (*u <= uint64_t{std::numeric_limits<int32_t>::max()}) id = static_cast<int64_t>(*u);
    // Converters write -1 or 2^32 - 1 for a token that there is not.
    if (id < 0 || id > std::numeric_limits<int32_t>::max()) return {};
    return static_cast<text::TokenId>(id);
  }
  template <typename T>
  std::vector<T> numbers(const std::string& key) const {
    const MetaValue* value = find(key);
    if (!value) return {};
    return std::visit(
        [&](const auto& list) -> std::vector<T> {
          using List = std::remove_cvref_t<decltype(list)>;
          if constexpr (std::is_same_v<List, std::vector<int64_t>> || std::is_same_v<List, std::vector<uint64_t>> ||
                        std::is_same_v<List, std::vector<double>>) {
            std::vector<T> result;
            for (const auto number : list) result.push_back(static_cast<T>(number));
            return result;
          } else {
            wrong(key);
          }
        },
        *value);
  }

 private:
  const MetaValue* find(const std::string& key) const {
    const auto found = source_.metadata().find("tokenizer.ggml." + key);
    return found == source_.metadata().end() ? nullptr : &found->second;
  }
  [[noreturn]] void wrong(const std::string& key) const {
    base::fail(ErrorKind::bad_input, source_.where() + ": tokenizer.ggml." + key, "a value of another type");
  }
  template <typename T>
  T as(const std::string& key, const MetaValue& value) const {
    if (const T* found = std::get_if<T>(&value)) return *found;
    wrong(key);
  }

  const checkpoint::TensorSource& source_;
};

}  // namespace

std::optional<text::GgufVocabulary> gguf_vocabulary(const checkpoint::TensorSource& source) {
  const Keys keys(source);
  text::GgufVocabulary v;
  v.model = keys.string("model", "no_vocab");
  if (v.model == "no_vocab" || v.model == "none") return {};
  v.pre = keys.string("pre", "default");
  v.tokens = keys.strings("tokens");
  v.scores = keys.numbers<float>("scores");
  v.token_type = keys.numbers<int32_t>("token_type");
  v.merges = keys.strings("merges");
  v.bos = keys.id("bos_token_id"), v.eos = keys.id("eos_token_id"), v.eot = keys.id("eot_token_id");
  v.unknown = keys.id("unknown_token_id"), v.padding = keys.id("padding_token_id");
  v.add_bos = keys.boolean("add_bos_token"), v.add_eos = keys.boolean("add_eos_token");
  v.add_space_prefix = keys.boolean("add_space_prefix");
  v.remove_extra_whitespaces = keys.boolean("remove_extra_whitespaces");
  return v;
}

std::optional<text::WholeTokenizer> gguf_whole_tokenizer(const checkpoint::TensorSource& source) {
  const auto json = source.metadata().find(kWholeTokenizer);
  const auto* text = json == source.metadata().end() ? nullptr : std::get_if<std::string>(&json->second);
  if (!text) return {};
  const Keys keys(source);
  return text::WholeTokenizer{*text, keys.id("bos_token_id"), keys.id("eos_token_id"), keys.id("eot_token_id")};
}

namespace {

class Putter {
 public:
  explicit Putter(checkpoint::Metadata& metadata) : metadata_(metadata) {}
  template <typename T>
  void operator()(const char* key, T value) const {
    metadata_[std::string("tokenizer.ggml.") + key] = std::move(value);
  }
  void id(const char* key, const std::optional<text::TokenId>& id) const {
    if (id) (*this)(key, static_cast<uint64_t>(*id));
  }

 private:
  checkpoint::Metadata& metadata_;
};

}  // namespace

void add_vocabulary(const text::GgufVocabulary& v, checkpoint::Metadata& metadata) {
  const Putter put(metadata);
  put("model", v.model), put("pre", v.pre);
  put("tokens", v.tokens), put("merges", v.merges);
  put("token_type", std::vector<int64_t>(v.token_type.begin(), v.token_type.end()));
  put.id("bos_token_id", v.bos), put.id("eos_token_id", v.eos), put.id("eot_token_id", v.eot);
  put.id("unknown_token_id", v.unknown), put.id("padding_token_id", v.padding);
  if (v.add_bos) put("add_bos_token", *v.add_bos);
  if (v.add_eos) put("add_eos_token", *v.add_eos);
}

void add_vocabulary(const text::WholeTokenizer& whole, checkpoint::Metadata& metadata) {
  const Putter put(metadata);
  put("model", std::string("no_vocab"));
  put.id("bos_token_id", whole.bos), put.id("eos_token_id", whole.eos), put.id("eot_token_id", whole.eot);
  metadata[std::string(kWholeTokenizer)] = whole.json;
}

}  // namespace coterie::families
