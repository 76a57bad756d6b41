#include <algorithm>
#include <map>

#include "base/atomic_file.h"
#include "text/bridge_call.h"
#include "text/gguf_export.h"
#include "text/tokenizer.h"
#include "text/tokenizer_state.h"

// A tokenizer from the files of a Hugging Face folder. tokenizer.json has everything that decides ids; which tokens
// begin and end a text stands in the files beside it.
namespace coterie::text {

using base::ErrorKind;
using base::fail;
using base::Json;

namespace {

Json read_object_if_there(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  Json json = base::read_json(path);
  if (!json.is_object())
    fail(ErrorKind::bad_input, path.string(), "expected a JSON object, found {}", json.type_name());
  return json;
}

/// A token is written as a string or as {"content": ...}; anything else (null) is none.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string())
    return value["content"].get<std::string>();
  return {};
}

/// The tokens that tokenizer_config.json and special_tokens_map.json name beside tokenizer.json, as the bridge takes
/// them: first added_tokens_decoder in the order of its ids, then the names.
Json extra_tokens(const Json& config, const Json& map, const std::string& where) {
  Json extra = Json::array();
  std::map<int64_t, Json> by_id;
  if (const auto decoder = config.find("added_tokens_decoder"); decoder != config.end() && decoder->is_object()) {
    for (const auto& [key, value] : decoder->items()) {
      if (key.empty() || key.size() > 9 || key.find_first_not_of("0123456789") != std::string::npos ||
          !token_text(value))
        fail(ErrorKind::bad_input, where,
             "added_tokens_decoder: expected {{\"ID\": {{\"content\": ...}}}} at key \"{}\"", key);
      Json token = value.is_object() ? value : Json{{"content", value}};
      token["id"] = std::stoll(key);
      by_id.emplace(std::stoll(key), std::move(token));
    }
  }
  for (auto& [id, token] : by_id) extra.push_back(std::move(token));
  const auto name = [&](const Json& value) {
    if (const auto text = token_text(value); text && !text->empty())
      extra.push_back({{"content", *text}, {"special", true}});
  };
  for (const Json* file : {&config, &map}) {
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
      if (file->contains(key)) name((*file)[key]);
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"})
      if (file->contains(key))
        for (const Json& value : (*file)[key]) name(value);
  }
  return extra;
}

void add_ids(const Json& json, const char* key, std::vector<TokenId>& ids) {
  const auto found = json.find(key);
  if (found == json.end()) return;
  const auto add = [&](const Json& value) {
    if (value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() < INT32_MAX)
      ids.push_back(value.get<TokenId>());
  };
  if (found->is_array())
    for (const Json& value : *found) add(value);
  else
    add(*found);
}

// The library says "data did not match any variant of untagged enum ModelUntagged" for a part whose type it does not
// know: names the part and its type instead.
void refuse_unknown_kind(std::string_view error, std::string_view json, std::string_view where) {
  if (error.find("untagged enum") == std::string_view::npos) return;
  static constexpr std::pair<std::string_view, const char*> kParts[] = {{"enum Model", "model"},
                                                                        {"enum Normalizer", "normalizer"},
                                                                        {"enum PreTokenizer", "pre_tokenizer"},
                                                                        {"enum PostProcessor", "post_processor"},
                                                                        {"enum Decoder", "decoder"}};
  for (const auto& [mark, part] : kParts) {
    if (error.find(mark) == std::string_view::npos) continue;
    const Json all = base::parse_json(json, where);
    const Json value = all.is_object() ? all.value(part, Json()) : Json();
    const std::string type = value.is_object() ? value.value("type", Json()).dump() : "missing";
    throw base::Error(
        ErrorKind::unsupported, std::string(where),
        fmt::format("its {} is of type {}, or lacks what such a one has: this is not read", part, type),
        "models of type BPE, Unigram, WordPiece and WordLevel are read, as the tokenizers library has them");
  }
}

std::shared_ptr<TokenizerState> parse(std::string_view json, const Json& extra, std::string_view where) {
  CoterieTokenizer* made = nullptr;
  BridgeBytes error;
  const std::string tokens = extra.dump();
  const int32_t code = coterie_tokenizer_from_json(slice(json), slice(tokens), &made, error.out());
  refuse_unknown_kind(error.view(), json, where);
  check_bridge(code, where, error);
  return std::make_shared<TokenizerState>(made, where);
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, std::string_view where) {
  return TokenizerState::finish(parse(tokenizer_json, Json::array(), where));
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  const bool is_folder = std::filesystem::is_directory(path);
  const std::filesystem::path folder = is_folder ? path : path.parent_path();
  const std::filesystem::path file = is_folder ? path / "tokenizer.json" : path;
  if (is_folder && !std::filesystem::exists(file))
    throw base::Error(ErrorKind::not_found, file.string(), "the folder has no tokenizer.json",
                      "a tokenizer.model or vocab.json alone is not read; save the tokenizer with transformers once");
  const Json config = read_object_if_there(folder / "tokenizer_config.json");
  const Json map = read_object_if_there(folder / "special_tokens_map.json");
  const std::string config_path = (folder / "tokenizer_config.json").string();
  const auto state = parse(base::read_text(file), extra_tokens(config, map, config_path), file.string());

  for (const Json* names : {&config, &map}) {
    if (const auto text = names->contains("bos_token") ? token_text((*names)["bos_token"]) : std::nullopt;
        text && !state->bos)
      state->bos = state->id(*text);
    if (const auto text = names->contains("eos_token") ? token_text((*names)["eos_token"]) : std::nullopt)
      state->ends_with(state->id(*text));
  }
  // As transformers does, config.json speaks where there is no generation_config.json.
  const std::filesystem::path generation = folder / "generation_config.json";
  const Json ids = read_object_if_there(std::filesystem::exists(generation) ? generation : folder / "config.json");
  std::vector<TokenId> begin, end;
  add_ids(ids, "bos_token_id", begin);
  add_ids(ids, "eos_token_id", end);
  if (!state->bos && !begin.empty() && begin.front() < state->size) state->bos = begin.front();
  for (const TokenId id : end) state->ends_with(id);
  return TokenizerState::finish(state);
}

Tokenizer tokenizer_of(const WholeTokenizer& whole, std::string_view where) {
  const auto state = parse(whole.json, Json::array(), where);
  for (const std::optional<TokenId>& id : {whole.bos, whole.eos, whole.eot})
    if (id && (*id < 0 || *id >= state->size))
      fail(ErrorKind::bad_input, where, "token {} is outside the {} of tokenizer.huggingface.json", *id, state->size);
  state->bos = whole.bos;
  state->ends_with(whole.eos), state->ends_with(whole.eot);
  return TokenizerState::finish(state);
}

}  // namespace coterie::text
