#include "serve/api/answer.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <random>

#include "serve/api/expert_fields.h"

namespace coterie::serve {

namespace {

base::Json bytes_json(const std::string& bytes) {
  base::Json list = base::Json::array();
  for (const char c : bytes) list.push_back(static_cast<int>(static_cast<unsigned char>(c)));
  return list;
}

base::Json alternative_json(TokenId id, float logprob, const ServedModel& model) {
  return {{"id", id},
          {"token", model.token_text(id)},
          {"logprob", finite_logprob(logprob)},
          {"bytes", bytes_json(model.bytes.of(id))}};
}

double per_second(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }
double per_token(int64_t count, double seconds) { return count > 0 ? 1e3 * seconds / static_cast<double>(count) : 0; }

}  // namespace

Answer::Answer(const ServedModel& served) : model(served), created(std::time(nullptr)) {}

void Answer::keep(size_t choice, const TokenChosen& token, bool whole_token) {
  choices[choice].text += token.text;
  if (whole_token) choices[choice].tokens.push_back(token);
}

void Answer::show_routes(size_t choice, base::Json& part) {
  if (!has_routes(choice)) return;
  part["coterie"] = routes_json(choices[choice].routes);
  if (!choices[choice].model_weights.empty())
    part["coterie"]["models"] = model_weights_json(choices[choice].model_weights);
  choices[choice].routes.clear(), choices[choice].model_weights.clear();
}

std::string Answer::failed(const ApiError& error) const { return server_event(error_body(error, dialect)); }

Usage Answer::usage() const {
  Usage sum;
  const std::vector<TokenId>* before = nullptr;
  for (size_t i = 0; i < choices.size(); ++i) {
    if (!choices[i].finished) continue;
    const Usage& one = choices[i].finished->usage;
    sum.completion_tokens += one.completion_tokens;
    const std::vector<TokenId>& prompt = requests[i].prompt;
    if (!before || *before != prompt) {
      sum.prompt_tokens += one.prompt_tokens;
      sum.cached_tokens += one.cached_tokens;
    }
    before = &prompt;
  }
  return sum;
}

std::string server_event(const base::Json& data, std::string_view event) {
  std::string bytes;
  if (!event.empty()) bytes = "event: " + std::string(event) + "\n";
  return bytes + "data: " + dumped(data) + "\n\n";
}

std::string fresh_id(std::string_view prefix) {
  constexpr std::string_view kLetters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  thread_local std::random_device draw;
  std::string id(prefix);
  for (int i = 0; i < 24; ++i) id += kLetters[draw() % kLetters.size()];
  return id;
}

std::string finish_reason(const Finished& finished) {
  const bool full = finished.reason == FinishReason::max_tokens || finished.reason == FinishReason::context_full;
  return full ? "length" : "stop";
}

base::Json usage_json(const Usage& usage, int64_t reasoning) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}, {"audio_tokens", 0}}},
          {"completion_tokens_details",
           {{"reasoning_tokens", reasoning},
            {"audio_tokens", 0},
            {"accepted_prediction_tokens", 0},
            {"rejected_prediction_tokens", 0}}}};
}

base::Json timings_json(const Finished& finished) {
  const int64_t read = finished.usage.prompt_tokens - finished.usage.cached_tokens;
  const int64_t said = finished.usage.completion_tokens;
  const int64_t after_first = std::max<int64_t>(said - 1, 0);  // the first token is the prompt's last step's
  const Timings& took = finished.timings;
  base::Json timings = {{"cache_n", finished.usage.cached_tokens},
                        {"prompt_n", read},
                        {"prompt_ms", took.prompt_seconds * 1e3},
                        {"prompt_per_token_ms", per_token(read, took.prompt_seconds)},
                        {"prompt_per_second", per_second(read, took.prompt_seconds)},
                        {"predicted_n", said},
                        {"predicted_ms", took.decode_seconds * 1e3},
                        {"predicted_per_token_ms", per_token(after_first, took.decode_seconds)},
                        {"predicted_per_second", per_second(after_first, took.decode_seconds)},
                        {"queued_ms", took.queued_seconds * 1e3},
                        {"first_token_ms", took.first_token_seconds * 1e3},
                        {"longest_gap_ms", took.longest_gap_seconds * 1e3}};
  if (!finished.cache_miss.empty()) timings["cache_miss"] = finished.cache_miss;
  return timings;
}

base::Json timings_json(const PromptProgress& progress) {
  Finished so_far;
  so_far.usage = {.prompt_tokens = progress.done, .cached_tokens = progress.cached};
  so_far.timings.prompt_seconds = progress.seconds;
  return timings_json(so_far);
}

base::Json progress_json(const PromptProgress& progress) {
  return {{"total", progress.total},
          {"cache", progress.cached},
          {"processed", progress.done},
          {"time_ms", static_cast<int64_t>(progress.seconds * 1e3)}};
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t left = std::min<size_t>(3, bytes.size() - at);
    uint32_t bits = 0;
    for (size_t i = 0; i < 3; ++i) bits = bits << 8 | (i < left ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    for (size_t i = 0; i < 4; ++i) text += i <= left ? kLetters[bits >> (18 - 6 * i) & 63U] : '=';
  }
  return text;
}

// NumPy's format 1.0: magic, version, length of the header, the header as a Python dict, padded to 64 bytes.
std::string routed_experts_base64(const RoutedExperts& experts, const ServedModel& model) {
  const bool small = model.experts <= 256;
  const int64_t k = experts.experts_per_token;
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}, {}, {}), }}",
                                   small ? "|u1" : "<u2", experts.positions, model.layers, k);
  while ((10 + header.size() + 1) % 64 != 0) header += ' ';
  header += '\n';
  std::string file = "\x93NUMPY";
  file += '\x01';
  file += '\0';
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  file += header;
  const size_t width = small ? 1 : 2;
  const size_t begin = file.size();
  file.resize(begin + static_cast<size_t>(experts.positions * model.layers * k) * width);
  for (int64_t p = 0; p < experts.positions; ++p)
    for (int64_t routed = 0; routed < experts.layers; ++routed)
      for (int64_t slot = 0; slot < k; ++slot) {
        const uint16_t id = experts.experts[static_cast<size_t>((p * experts.layers + routed) * k + slot)];
        const int64_t layer = model.routed_layers[static_cast<size_t>(routed)];
        char* const at = file.data() + begin + static_cast<size_t>((p * model.layers + layer) * k + slot) * width;
        at[0] = static_cast<char>(id & 0xff);
        if (!small) at[1] = static_cast<char>(id >> 8);
      }
  return base64(file);
}

double finite_logprob(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

base::Json logprob_json(const TokenChosen& token, const ServedModel& model) {
  base::Json json = alternative_json(token.id, token.logprob, model);
  base::Json top = base::Json::array();
  for (const TokenLogprob& each : token.top) top.push_back(alternative_json(each.id, each.logprob, model));
  json["top_logprobs"] = std::move(top);
  return json;
}

base::Json probability_json(const TokenChosen& token, const ServedModel& model) {
  const auto one = [&](TokenId id, float logprob) {
    base::Json json = alternative_json(id, logprob, model);
    json.erase("logprob");
    json["prob"] = std::exp(static_cast<double>(logprob));
    return json;
  };
  base::Json json = one(token.id, token.logprob);
  json["top_probs"] = base::Json::array();
  for (const TokenLogprob& each : token.top) json["top_probs"].push_back(one(each.id, each.logprob));
  return json;
}

}  // namespace coterie::serve
