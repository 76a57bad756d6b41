#include "serve/api/expert_fields.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>

#include "lens/router_change.h"
#include "serve/api/answer.h"
#include "serve/api/api_error.h"

namespace coterie::serve {

namespace {

constexpr int64_t kMostSilenced = 65536;

float sample_of(Fields& fields, const std::string& rule) {
  constexpr std::string_view kSample = "sample:";
  float temperature = 0;
  const char* const end = rule.data() + rule.size();
  const bool is_sample = rule.starts_with(kSample);
  const auto read = is_sample ? std::from_chars(rule.data() + kSample.size(), end, temperature)
                              : std::from_chars_result{rule.data(), std::errc::invalid_argument};
  if (read.ec != std::errc() || read.ptr != end || !(temperature > 0) || !std::isfinite(temperature))
    fields.wrong("router", "\"sample:T\" with a temperature T above 0");
  return temperature;
}

lens::RouterChange read_change(Fields& fields) {
  lens::RouterChange change;
  if (fields.has("silence")) {
    const std::vector<std::string> silenced = fields.strings("silence");
    if (std::ssize(silenced) > kMostSilenced) fields.wrong("silence", fmt::format("at most {} entries", kMostSilenced));
    for (const std::string& each : silenced) lens::read_experts(each, "coterie.silence", change.silenced);
  } else {
    fields.accept({"silence"});
  }
  change.experts_per_token = fields.integer("experts_per_token", 1, std::numeric_limits<int32_t>::max());
  if (const auto rule = fields.string("router")) change.sample = sample_of(fields, *rule);
  return change;
}

std::string bytes_of(const std::vector<uint16_t>& values) {
  std::string bytes;
  bytes.reserve(2 * values.size());
  for (const uint16_t value : values) {
    bytes += static_cast<char>(value & 0xff);
    bytes += static_cast<char>(value >> 8);
  }
  return bytes;
}

}  // namespace

void read_expert_fields(Fields& fields, const ServedModel& model, Request& request) {
  const auto need_routers = [&](std::string_view field) {
    if (model.routed_layers.empty())
      throw ApiError(400, fmt::format("{}: this model has no layer whose router chooses experts", field),
                     std::string(field));
  };
  request.routed_experts =
      fields.boolean("routed_experts").value_or(false) | fields.boolean("return_routed_experts").value_or(false);
  if (request.routed_experts) need_routers("routed_experts");
  const base::Json* const ours = fields.object("coterie");
  if (!ours) return;
  Fields inner(*ours, "coterie.");
  request.tells_routes = inner.boolean("experts").value_or(false);
  const lens::RouterChange change = read_change(inner);
  inner.refuse_unknown(false);
  if ((request.tells_routes && model.gated.count() == 0) || !change.empty()) need_routers("coterie");
  if (change.empty()) return;
  if (!model.spec)
    throw ApiError(400, "coterie: what the routers of this model decide cannot be changed", "coterie",
                   "unsupported_parameter");
  request.routers = std::make_shared<lens::ChangedRouters>(*model.spec, change);
  request.routers_key = change.key();
  request.routers_draw = change.sample.has_value();
}

base::Json routes_json(const std::vector<RoutesKnown>& routes) {
  base::Json list = base::Json::array();
  for (const RoutesKnown& each : routes)
    list.push_back({{"first", each.first},
                    {"positions", each.positions},
                    {"layers", each.layers},
                    {"experts_per_token", each.experts_per_token},
                    {"experts", base64(bytes_of(each.experts))},
                    {"weights", base64(bytes_of(each.weights))},
                    {"entropy", base64(bytes_of(each.entropy))}});
  for (size_t i = 0; i < routes.size(); ++i)
    if (routes[i].disk_bytes >= 0)
      list[i]["disk_bytes"] = routes[i].disk_bytes, list[i]["step_tokens"] = routes[i].step_tokens;
  base::Json json = base::Json::object();
  if (!list.empty()) json["routes"] = std::move(list);
  return json;
}

base::Json model_weights_json(const std::vector<std::vector<float>>& tokens) {
  base::Json list = base::Json::array();
  for (const std::vector<float>& weights : tokens) {
    base::Json each = weights.empty() ? base::Json() : base::Json::array();
    for (const float weight : weights) each.push_back(std::round(static_cast<double>(weight) * 1e6) / 1e6);
    list.push_back(std::move(each));
  }
  return list;
}

}  // namespace coterie::serve
