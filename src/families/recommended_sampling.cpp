#include "families/recommended_sampling.h"

#include <array>
#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <variant>

#include "base/error.h"

namespace coterie::families {

using base::ErrorKind;
using base::Json;

namespace {

constexpr double kAny = std::numeric_limits<double>::max();

struct Rule {
  std::string_view name;
  std::string_view gguf;          // after general.sampling.; empty: GGUF has no name for it
  std::string_view hugging_face;  // empty: transformers has none
  double least, most;
  bool whole = false;  // an integer
};

constexpr std::array kRules = {
    Rule{"temperature", "temp", "temperature", 0, kAny},
    Rule{"top_k", "top_k", "top_k", 0, std::numeric_limits<int32_t>::max(), true},
    Rule{"top_p", "top_p", "top_p", 0, 1},
    Rule{"min_p", "min_p", "min_p", 0, 1},
    Rule{"typical", "", "typical_p", 0, 1},
    Rule{"repeat_penalty", "penalty_repeat", "repetition_penalty", 0, kAny},
    Rule{"repeat_last_n", "penalty_last_n", "", -1, std::numeric_limits<int32_t>::max(), true},
};

constexpr std::string_view kGguf = "general.sampling.";

std::optional<double> number(const checkpoint::MetaValue& value) {
  if (const auto* real = std::get_if<double>(&value)) return *real;
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  if (const auto* natural = std::get_if<uint64_t>(&value)) return static_cast<double>(*natural);
  return {};
}

void add(const Rule& rule, std::optional<double> value, std::string_view key, std::string_view where,
         RecommendedSampling& sampling) {
  if (rule.name == "top_k" && value == -1) value = 0;  // vLLM's word for off
  // A penalty of 0 and a share of 0 leave nothing to draw; of top_k and min_p 0 means off.
  const bool zero_is_none = rule.name == "top_p" || rule.name == "typical" || rule.name == "repeat_penalty";
  if (!value || !(*value >= rule.least && *value <= rule.most) || (zero_is_none && *value == 0) ||
      (rule.whole && *value != std::floor(*value)))
    throw base::Error(ErrorKind::bad_input, std::string(where),
                      fmt::format("{}: expected {}{}, found {}", key, rule.whole ? "an integer" : "a number",
                                  rule.most == 1 ? (zero_is_none ? " above 0 and at most 1" : " from 0 to 1")
                                                 : (rule.least < 0 ? " of -1 or more" : " of 0 or more"),
                                  value ? fmt::format("{}", *value) : "something else"),
                      "this is how the model's makers recommend that it be sampled: correct it, or take the key out");
  sampling.emplace(rule.name, *value);
}

}  // namespace

RecommendedSampling recommended_sampling(const Json& generation_config, std::string_view where) {
  RecommendedSampling sampling;
  const bool greedy = generation_config.value("do_sample", Json()) == false;  // transformers looks at penalties alone
  for (const Rule& rule : kRules) {
    if (greedy && rule.name != "repeat_penalty") continue;
    const auto found = rule.hugging_face.empty() ? generation_config.end() : generation_config.find(rule.hugging_face);
    if (found == generation_config.end() || found->is_null()) continue;
    add(rule, found->is_number() ? std::optional(found->get<double>()) : std::nullopt, rule.hugging_face, where,
        sampling);
  }
  if (sampling.contains("repeat_penalty")) sampling["repeat_last_n"] = -1;
  return sampling;
}

RecommendedSampling recommended_sampling(const Model& model) {
  if (!model.source) return {};
  if (model.source->format() != checkpoint::Format::gguf) {
    const std::filesystem::path file = model.path.config.parent_path() / "generation_config.json";
    if (model.path.config.empty() || !std::filesystem::exists(file)) return {};
    const Json config = base::read_json(file);
    return config.is_object() ? recommended_sampling(config, file.string()) : RecommendedSampling{};
  }
  RecommendedSampling sampling;
  const checkpoint::Metadata& metadata = model.source->metadata();
  for (const Rule& rule : kRules) {
    if (rule.gguf.empty()) continue;
    const std::string key = std::string(kGguf) + std::string(rule.gguf);
    if (const auto found = metadata.find(key); found != metadata.end())
      add(rule, number(found->second), key, model.source->where(), sampling);
  }
  return sampling;
}

void add_sampling(const RecommendedSampling& sampling, checkpoint::Metadata& metadata) {
  for (const Rule& rule : kRules) {
    const auto found = sampling.find(rule.name);
    if (rule.gguf.empty() || found == sampling.end()) continue;
    checkpoint::MetaValue& value = metadata[std::string(kGguf) + std::string(rule.gguf)];
    if (rule.whole)
      value = static_cast<int64_t>(found->second);
    else
      value = found->second;
  }
}

void add_sampling(const RecommendedSampling& sampling, Json& generation_config) {
  for (const Rule& rule : kRules) {
    const auto found = sampling.find(rule.name);
    if (rule.hugging_face.empty() || found == sampling.end()) continue;
    Json& value = generation_config[std::string(rule.hugging_face)];
    if (rule.whole)
      value = static_cast<int64_t>(found->second);
    else
      value = found->second;
    generation_config["do_sample"] = true;  // without it transformers ignores them
  }
}

}  // namespace coterie::families
