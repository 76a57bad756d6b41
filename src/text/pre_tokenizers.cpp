#include "text/pre_tokenizers.h"

#include <algorithm>
#include <array>
#include <vector>

namespace coterie::text {

using base::Json;

namespace {

// Where a published tokenizer.json exists the pattern is the one it holds; otherwise the one of llama.cpp's converter
// table (src/llama-vocab.cpp), which is where these names come from.
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

struct Entry {
  std::vector<std::string_view> names;
  std::vector<const char*> patterns;  // applied one after the other, each splitting what the one before left
  bool ignore_merges = false;
  bool add_bos = false;
  const char* normalizer = nullptr;
};

const std::vector<Entry>& table() {
  static const std::vector<Entry> entries = {
      {.names = {"llama3", "llama-v3", "llama-bpe"}, .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
      {.names = {"gpt-2"}, .patterns = {kGpt2}},
      {.names = {"smollm"}, .patterns = {R"(\p{N})", kGpt2}},
      {.names = {"qwen2"}, .patterns = {kQwen2}, .normalizer = "NFC"},
  };
  return entries;
}

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

}  // namespace

std::optional<PreTokenizer> find_pre_tokenizer(std::string_view name) {
  for (const Entry& entry : table()) {
    if (std::find(entry.names.begin(), entry.names.end(), name) == entry.names.end()) continue;
    Json steps = Json::array();
    for (const char* pattern : entry.patterns) steps.push_back(split(pattern));
    steps.push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}});
    PreTokenizer found;
    found.pre_tokenizer = {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
    if (entry.normalizer) found.normalizer = {{"type", entry.normalizer}};
    found.ignore_merges = entry.ignore_merges;
    found.add_bos = entry.add_bos;
    return found;
  }
  return {};
}

std::string known_pre_tokenizers() {
  std::vector<std::string_view> names;
  for (const Entry& entry : table()) names.insert(names.end(), entry.names.begin(), entry.names.end());
  std::sort(names.begin(), names.end());
  std::string list;
  for (std::string_view name : names) list += list.empty() ? std::string(name) : ", " + std::string(name);
  return list;
}

}  // namespace coterie::text
