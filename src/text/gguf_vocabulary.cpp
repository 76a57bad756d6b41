#include <algorithm>
#include <array>
#include <cmath>
#include <deque>

#include "text/bridge_call.h"
#include "text/pre_tokenizers.h"
#include "text/tokenizer.h"
#include "text/tokenizer_state.h"

// A tokenizer from the vocabulary inside a GGUF file. The vocabulary is written as the parts of a tokenizer.json and
// handed to the same library, so that a text gives the same ids whichever file the model came in.
namespace coterie::text {

using base::ErrorKind;
using base::fail;
using base::Json;

namespace {

enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

// GGUF has one eos and one eot. Chat models end their turns with more tokens than these (generation_config.json lists
// them), so control tokens with these texts end a generation too.
constexpr std::array<std::string_view, 17> kEndTexts = {"<|eot_id|>",
                                                        "<|eom_id|>",
                                                        "<|im_end|>",
                                                        "<|end|>",
                                                        "<|return|>",
                                                        "<|call|>",
                                                        "<|calls|>",
                                                        "<|flush|>",
                                                        "<end_of_turn>",
                                                        "<|endoftext|>",
                                                        "<EOT>",
                                                        "[EOT]",
                                                        "[EOS]",
                                                        "<|end_of_text|>",
                                                        "<end_of_utterance>",
                                                        "<eos>",
                                                        "<｜end▁of▁sentence｜>"};

void check(const GgufVocabulary& vocabulary, std::string_view where) {
  const size_t n = vocabulary.tokens.size();
  if (n == 0) fail(ErrorKind::bad_input, where, "tokenizer.ggml.tokens is missing or empty");
  if (n > static_cast<size_t>(INT32_MAX)) fail(ErrorKind::bad_input, where, "{} tokens do not fit ids of 32 bits", n);
  const auto same_length = [&](const char* key, size_t length) {
    if (length != 0 && length != n)
      fail(ErrorKind::bad_input, where, "tokenizer.ggml.{} has {} entries for {} tokens", key, length, n);
  };
  same_length("scores", vocabulary.scores.size());
  same_length("token_type", vocabulary.token_type.size());
  const auto in_range = [&](const char* key, const std::optional<TokenId>& id) {
    if (id && (*id < 0 || static_cast<size_t>(*id) >= n))
      fail(ErrorKind::bad_input, where, "tokenizer.ggml.{} is {}, outside the {} tokens", key, *id, n);
  };
  in_range("bos_token_id", vocabulary.bos);
  in_range("eos_token_id", vocabulary.eos);
  in_range("eot_token_id", vocabulary.eot);
  in_range("unknown_token_id", vocabulary.unknown);
  in_range("padding_token_id", vocabulary.padding);
}

int32_t type_of(const GgufVocabulary& vocabulary, size_t id) {
  return vocabulary.token_type.empty() ? int32_t{kNormal} : vocabulary.token_type[id];
}

Json added_tokens(const GgufVocabulary& vocabulary) {
  Json added = Json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int32_t type = type_of(vocabulary, id);
    if (vocabulary.tokens[id].empty()) continue;
    if (type == kControl || type == kUnknown || type == kUserDefined)
      added.push_back({{"id", id}, {"special", type != kUserDefined}});
  }
  return added;
}

/// What stands around a text: BOS before, EOS after, where the file asks for them.
/// A token that the file names, or that its kind of vocabulary has by custom.
struct Ends {
  std::optional<TokenId> bos, eos;
  bool add_bos = false, add_eos = false;
};

/// What stands around a text: BOS before, EOS after, where the file asks for them.
Json post_processor(const GgufVocabulary& vocabulary, const Ends& ends, std::string_view where) {
  if (!ends.add_bos && !ends.add_eos) return nullptr;
  Json around = Json::array(), special = Json::object();
  const auto put = [&](const std::optional<TokenId>& id, const char* name) {
    if (!id)
      fail(ErrorKind::bad_input, where, "a {0} is to be added to each text, but tokenizer.ggml.{0}_token_id is missing",
           name);
    const std::string& token = vocabulary.tokens[static_cast<size_t>(*id)];
    around.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
    special[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
  };
  if (ends.add_bos) put(ends.bos, "bos");
  around.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (ends.add_eos) put(ends.eos, "eos");
  Json pair = around;
  pair.push_back({{"Sequence", {{"id", "B"}, {"type_id", 0}}}});
  return {{"type", "TemplateProcessing"}, {"single", around}, {"pair", pair}, {"special_tokens", special}};
}

Json byte_level_parts(const GgufVocabulary& vocabulary, Ends& ends, std::string_view where) {
  const std::string_view name = vocabulary.pre.empty() ? "default" : std::string_view(vocabulary.pre);
  const auto pre = find_pre_tokenizer(name);
  if (!pre)
    throw base::Error(ErrorKind::unsupported, std::string(where),
                      fmt::format("tokenizer.ggml.pre is \"{}\", a pre-tokenizer that is not known here", name),
                      "known are: " + known_pre_tokenizers());
  if (vocabulary.merges.empty()) fail(ErrorKind::bad_input, where, "tokenizer.ggml.merges is missing or empty");
  ends.add_bos = pre->add_bos;
  return {
      {"normalizer", pre->normalizer},
      {"pre_tokenizer", pre->pre_tokenizer},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}}},
      {"ignore_merges", pre->ignore_merges}};
}

std::string spaces_as_token(size_t n) {
  std::string token;
  for (size_t i = 0; i < n; ++i) token += "▁";
  return token;
}

/// SentencePiece BPE, as transformers writes it for the tokenizers library: spaces become U+2581 and what has no token
/// becomes bytes.
Json sentencepiece_parts(const GgufVocabulary& vocabulary, std::string_view where) {
  if (vocabulary.scores.empty()) fail(ErrorKind::bad_input, where, "tokenizer.ggml.scores is missing or empty");
  for (size_t id = 0; id < vocabulary.scores.size(); ++id)
    if (std::isnan(vocabulary.scores[id])) fail(ErrorKind::bad_input, where, "tokenizer.ggml.scores[{}] is NaN", id);
  if (vocabulary.remove_extra_whitespaces.value_or(false))
    fail(ErrorKind::unsupported, where, "tokenizer.ggml.remove_extra_whitespaces is true, which is not supported");

  Json unmerged = Json::array();
  bool has_bytes = false;
  std::optional<TokenId> unknown = vocabulary.unknown;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const int32_t type = type_of(vocabulary, id);
    if (type == kControl || type == kUnknown || type == kByte) unmerged.push_back(id);
    has_bytes |= type == kByte;
    if (type == kUnknown && !unknown) unknown = static_cast<TokenId>(id);
  }
  const bool prefix = vocabulary.add_space_prefix.value_or(true);
  const Json to_space = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const Json from_space = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  Json normalizers = Json::array(), decoders = {to_space, {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) {
    normalizers.push_back({{"type", "Prepend"}, {"prepend", "▁"}});
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  normalizers.push_back(from_space);
  Json parts = {
      {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
      {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
      {"byte_fallback", has_bytes},
      {"fuse_unk", true},
      // The order of ties in the published files: Llama 2, Mistral, Mixtral (with a prefix) and Gemma (without).
      {"merges_by_length", !prefix},
      {"unmerged", unmerged}};
  if (unknown) parts["unk_token"] = vocabulary.tokens[static_cast<size_t>(*unknown)];
  return parts;
}

}  // namespace

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, std::string_view where) {
  check(vocabulary, where);
  Ends ends{.bos = vocabulary.bos, .eos = vocabulary.eos};
  const bool from_scores = vocabulary.model == "llama";
  Json parts;
  if (vocabulary.model == "gpt2") {
    parts = byte_level_parts(vocabulary, ends, where);
  } else if (from_scores) {
    parts = sentencepiece_parts(vocabulary, where);
    ends.add_bos = true;
    // The first llama files do not say: <unk>, <s>, </s> are 0, 1, 2 in all of them.
    const auto usual = [&](TokenId id) {
      const bool is_control = type_of(vocabulary, static_cast<size_t>(id)) == kControl;
      return is_control ? std::optional<TokenId>(id) : std::nullopt;
    };
    if (!ends.bos && vocabulary.tokens.size() > 2) ends.bos = usual(1);
    if (!ends.eos && vocabulary.tokens.size() > 2) ends.eos = usual(2);
  } else {
    throw base::Error(ErrorKind::unsupported, std::string(where),
                      fmt::format("tokenizer.ggml.model is \"{}\"", vocabulary.model),
                      "known are: gpt2 (byte-level BPE), llama (SentencePiece BPE)");
  }
  ends.add_bos = vocabulary.add_bos.value_or(ends.add_bos);
  ends.add_eos = vocabulary.add_eos.value_or(ends.add_eos);
  parts["post_processor"] = post_processor(vocabulary, ends, where);
  parts["added"] = added_tokens(vocabulary);

  std::deque<std::string> renamed;
  std::vector<CoterieSlice> tokens, merges;
  tokens.reserve(vocabulary.tokens.size());
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    const std::string& token = vocabulary.tokens[id];
    if (token.empty())
      // Empty tokens would be duplicates of each other.
      tokens.push_back(slice(renamed.emplace_back(fmt::format("[EMPTY_{}]", id))));
    else if (from_scores && token.find_first_not_of(' ') == std::string::npos)
      // Converters write the user-defined runs of spaces as text; in the published vocabularies they are U+2581.
      tokens.push_back(slice(renamed.emplace_back(spaces_as_token(token.size()))));
    else
      tokens.push_back(slice(token));
  }
  if (!from_scores) {
    merges.reserve(vocabulary.merges.size());
    for (const std::string& merge : vocabulary.merges) merges.push_back(slice(merge));
  }

  const std::string text = parts.dump(-1, ' ', false, Json::error_handler_t::replace);
  CoterieTokenizer* made = nullptr;
  BridgeBytes error;
  check_bridge(coterie_tokenizer_build(slice(text), tokens.data(), tokens.size(), merges.data(), merges.size(),
                                       from_scores ? vocabulary.scores.data() : nullptr, &made, error.out()),
               where, error);
  auto state = std::make_shared<TokenizerState>(made, where);
  state->bos = ends.bos;
  state->ends_with(ends.eos);
  state->ends_with(vocabulary.eot);
  // gpt-oss ends its answers with <|return|> or <|call|>; <|end|> only ends one channel's message.
  const bool harmony = state->id("<|return|>") && state->id("<|call|>");
  for (std::string_view end : kEndTexts)
    if (harmony && end == "<|end|>")
      continue;
    else if (const auto id = state->id(end); id && coterie_tokenizer_is_special(made, static_cast<uint32_t>(*id)))
      state->ends_with(id);
  return TokenizerState::finish(std::move(state));
}

}  // namespace coterie::text
