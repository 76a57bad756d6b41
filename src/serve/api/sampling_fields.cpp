#include "serve/api/sampling_fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <random>

#include "serve/api/api_error.h"

namespace coterie::serve {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr size_t kStops = 64;

template <typename T, typename U>
void set(T& slot, const std::optional<U>& value) {
  if (value) slot = static_cast<T>(*value);
}

float bias_of(const base::Json& value, const Fields& fields) {
  if (value.is_boolean() && !value.get<bool>()) return -std::numeric_limits<float>::infinity();
  if (!value.is_number() || !std::isfinite(value.get<double>()) || std::abs(value.get<double>()) > 1e6)
    fields.wrong("logit_bias", "a number for each token, or false for one that may not come");
  return value.get<float>();
}

// The ids that a key names: one, or those of a text.
std::vector<TokenId> biased(const std::string& key, const ServedModel& model) {
  TokenId id = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error == std::errc() && end == key.data() + key.size()) return {id};
  return model.tokenizer.encode(key, false);
}

void read_bias(Fields& fields, const ServedModel& model, runtime::SamplerOptions& sampler) {
  const base::Json* const bias = fields.value("logit_bias");
  if (!bias) return;
  const auto add = [&](const std::vector<TokenId>& ids, const base::Json& value) {
    for (const TokenId id : ids) sampler.logit_bias.emplace_back(id, bias_of(value, fields));
  };
  if (bias->is_object()) {
    for (const auto& item : bias->items()) add(biased(item.key(), model), item.value());
    return;
  }
  if (!bias->is_array()) fields.wrong("logit_bias", "an object such as {\"1234\": -5}");
  for (const base::Json& pair : *bias) {
    const bool good = pair.is_array() && pair.size() == 2 && (pair[0].is_number_integer() || pair[0].is_string());
    if (!good) fields.wrong("logit_bias", "pairs such as [1234, -5]");
    const int64_t id = pair[0].is_number_integer() ? pair[0].get<int64_t>() : 0;
    if (id < 0 || id > kMost) fields.wrong("logit_bias", "ids of the vocabulary");
    add(pair[0].is_string() ? model.tokenizer.encode(pair[0].get<std::string>(), false)
                            : std::vector<TokenId>{static_cast<TokenId>(id)},
        pair[1]);
  }
}

void read_filters(Fields& fields, runtime::SamplerOptions& sampler) {
  set(sampler.temperature, fields.number("temperature", 0, 1e3));
  set(sampler.top_p, fields.number("top_p", 0, 1));
  // The API allows 0, which leaves the best token alone, as the smallest share does.
  if (sampler.top_p == 0) sampler.top_p = std::numeric_limits<double>::min();
  if (const auto k = fields.integer("top_k", -1, kMost)) sampler.top_k = std::max<int64_t>(*k, 0);
  set(sampler.min_p, fields.number("min_p", 0, 1));
  set(sampler.typical, fields.number("typical_p", 0, 1));
  if (sampler.typical == 0) sampler.typical = 1;
  set(sampler.top_n_sigma, fields.number("top_n_sigma", -1, 1e6));
  set(sampler.xtc_probability, fields.number("xtc_probability", 0, 1));
  set(sampler.xtc_threshold, fields.number("xtc_threshold", 0, 1));
  set(sampler.dynatemp_range, fields.number("dynatemp_range", 0, 1e3));
  set(sampler.dynatemp_exp, fields.number("dynatemp_exponent", 0, 1e3));
  set(sampler.mirostat, fields.integer("mirostat", 0, 2));
  set(sampler.mirostat_ent, fields.number("mirostat_tau", 0, 1e3));
  set(sampler.mirostat_lr, fields.number("mirostat_eta", 0, 1e3));
}

void read_penalties(Fields& fields, runtime::SamplerOptions& sampler) {
  set(sampler.presence_penalty, fields.number("presence_penalty", -2, 2));
  set(sampler.frequency_penalty, fields.number("frequency_penalty", -2, 2));
  set(sampler.repeat_penalty, fields.number("repetition_penalty", 1e-6, 1e3));  // vLLM's name
  set(sampler.repeat_penalty, fields.number("repeat_penalty", 1e-6, 1e3));      // llama.cpp's
  set(sampler.repeat_last_n, fields.integer("repeat_last_n", -1, kMost));
  set(sampler.dry_multiplier, fields.number("dry_multiplier", 0, 1e6));
  set(sampler.dry_base, fields.number("dry_base", 1, 1e6));
  set(sampler.dry_allowed_length, fields.integer("dry_allowed_length", 1, kMost));
  set(sampler.dry_penalty_last_n, fields.integer("dry_penalty_last_n", -1, kMost));
  if (fields.has("dry_sequence_breakers")) sampler.dry_sequence_breakers = fields.strings("dry_sequence_breakers");
  fields.accept({"dry_sequence_breakers"});
}

}  // namespace

Request default_request(const ServedModel& model) {
  Request request;
  request.sampler = model.sampler;
  request.max_tokens = model.max_tokens;
  request.ignore_end = model.ignore_end;
  if (model.seed) {
    request.sampler.seed = *model.seed;
  } else {
    std::random_device draw;
    request.sampler.seed = static_cast<uint64_t>(draw()) << 32 | draw();
  }
  return request;
}

void read_sampling(Fields& fields, const ServedModel& model, Request& request) {
  read_filters(fields, request.sampler);
  read_penalties(fields, request.sampler);
  read_bias(fields, model, request.sampler);
  // -1 is llama.cpp's word for a seed that is drawn.
  if (const auto seed =
          fields.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
      seed && *seed != -1)
    request.sampler.seed = static_cast<uint64_t>(*seed);
  if (fields.has("stop")) {
    request.stop = fields.strings("stop");
    std::erase(request.stop, "");
    if (request.stop.size() > kStops) fields.wrong("stop", fmt::format("at most {} strings", kStops));
  } else {
    fields.accept({"stop"});
  }
  set(request.ignore_end, fields.boolean("ignore_eos"));
  set(request.skip_special, fields.boolean("skip_special_tokens"));
  set(request.use_cache, fields.boolean("cache_prompt"));
  set(request.cache_salt, fields.string("cache_salt"));
  // vLLM's field, with its sense: lower goes first.
  if (const auto priority = fields.integer("priority", -kMost, kMost)) request.priority = -*priority;
}

std::optional<int64_t> read_max_tokens(Fields& fields, std::initializer_list<std::string_view> names) {
  std::optional<int64_t> found;
  std::string_view by;
  for (const std::string_view name : names) {
    const std::optional<int64_t> value = fields.integer(name, -1, kMost);
    if (value && found && *value != *found)
      throw ApiError(
          400, fmt::format("{} is {} and {} is {}: they mean the same, give one of them", by, *found, name, *value),
          std::string(name));
    if (value && !found) found = value, by = name;
  }
  return found;
}

std::vector<Request> copies(const Request& request, int64_t n) {
  std::vector<Request> all(static_cast<size_t>(n), request);
  for (size_t i = 1; i < all.size(); ++i) all[i].sampler.seed += i;
  return all;
}

std::span<const std::string_view> inert_fields() {
  static constexpr std::string_view names[] = {
      "model",     "user",   "store",           "metadata",   "service_tier",      "prompt_cache_key",
      "verbosity", "n_keep", "stream_interval", "request_id", "safety_identifier", "prompt_cache_retention",
      "id_slot"};
  return names;
}

void accept_inert(Fields& fields) { fields.accept(inert_fields()); }

}  // namespace coterie::serve
