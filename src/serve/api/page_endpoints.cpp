#include "serve/api/page_endpoints.h"

#include <algorithm>

#include "base/error.h"
#include "layers/moe/routers/kind.h"
#include "runtime/model_bytes.h"
#include "runtime/version.h"
#include "serve/page.h"

namespace coterie::serve {

namespace {

/// A block as people name what its FFN does: "dense", "soft", or how its router chooses.
base::Json layer_json(const ServedModel& model, int64_t layer) {
  base::Json json = {{"layer", layer}, {"kind", "dense"}};
  if (model.gated.count() > 0) {
    const auto [whose, number] = model.gated.place(layer);
    json["model"] = whose, json["number"] = number;
  }
  if (!model.spec) return json;
  const auto* moe = std::get_if<layers::MoeSpec>(&model.spec->blocks[static_cast<size_t>(layer)].ffn);
  if (!moe) return json;
  json["kind"] = layers::kind_of(moe->router.selection).name;
  json["experts"] = moe->router.experts;
  json["experts_per_token"] = moe->router.experts_per_token;
  const auto routed = std::find(model.routed_layers.begin(), model.routed_layers.end(), layer);
  const auto at = static_cast<size_t>(routed - model.routed_layers.begin());
  if (at < model.expert_bytes.size()) json["expert_bytes"] = model.expert_bytes[at];
  return json;
}

base::Json histogram_json(const Histogram& histogram) {
  return {{"upper", histogram.upper}, {"counts", histogram.counts}, {"sum", histogram.sum}, {"count", histogram.count}};
}

}  // namespace

void RecentRequests::add(const base::Json& line) {
  base::Json kept;
  for (const char* name : {"time", "path", "status", "result", "seconds", "prompt_tokens", "cached_tokens",
                           "completion_tokens", "finish", "queued_seconds", "first_token_seconds", "cache_miss"})
    if (line.contains(name)) kept[name] = line[name];
  const std::lock_guard lock(mutex_);
  lines_.push_front(std::move(kept));
  if (lines_.size() > kKept) lines_.pop_back();
}

base::Json RecentRequests::json() const {
  const std::lock_guard lock(mutex_);
  return base::Json(std::vector<base::Json>(lines_.begin(), lines_.end()));
}

base::Json page_model_json(const ServedModel& model, const SchedulerOptions& options) {
  base::Json all = base::Json::array();
  for (int64_t layer = 0; layer < model.layers; ++layer) all.push_back(layer_json(model, layer));
  return {{"name", model.name},
          {"version", runtime::version()},
          {"family", model.gated.count() == 0 && model.spec ? model.spec->family.shown() : std::string("ensemble")},
          {"models", model.gated.names},
          {"gate", model.gate},
          {"chat", model.chat_template.has_value()},
          {"context", model.context},
          {"vocabulary", model.vocabulary},
          {"parameters", model.parameters},
          {"file_bytes", model.file_bytes},
          {"dense_bytes", model.dense_bytes},
          {"read_bytes_per_second", model.read_bytes_per_second},
          {"routed_layers", model.routed_layers},
          {"changeable", model.spec.has_value() && !model.routed_layers.empty()},
          {"layers", std::move(all)},
          {"defaults",
           {{"temperature", model.sampler.temperature},
            {"top_p", model.sampler.top_p},
            {"top_k", model.sampler.top_k},
            {"min_p", model.sampler.min_p},
            {"max_tokens", model.max_tokens}}},
          {"parallel", options.parallel},
          {"stall_seconds", options.stall_seconds}};
}

base::Json page_experts_json(const Snapshot& snapshot, const ServedModel& model) {
  base::Json names = base::Json::array();
  for (int where = 0; where < runtime::kWheres; ++where) names.push_back(name(static_cast<runtime::Where>(where)));
  return {{"layers", model.routed_layers},
          {"tokens", snapshot.counters.expert_tokens},
          {"place_names", std::move(names)},
          {"places", snapshot.expert_places}};
}

namespace {

base::Json reads_json(const runtime::StreamReport& reads) {
  const auto kind = [](const runtime::StreamFigures::Kind& of) {
    return base::Json{{"tokens", of.tokens},
                      {"hit_share", of.hit_share()},
                      {"bytes_per_token", of.bytes_per_token()},
                      {"stalled_seconds", of.stalled}};
  };
  return {{"slots", reads.slots},
          {"experts", reads.experts},
          {"slot_bytes", reads.slot_bytes},
          {"decode", kind(reads.figures.decode)},
          {"prompt", kind(reads.figures.prompt)},
          {"bytes_per_second", reads.figures.bytes_per_second()},
          {"disk_share", reads.disk_rate > 0 ? base::Json(reads.share()) : base::Json(nullptr)},
          {"reader", reads.reader},
          {"direct", reads.direct}};
}

}  // namespace

base::Json page_live_json(const Snapshot& snapshot, const RecentRequests& recent) {
  base::Json requests = base::Json::array();
  for (const RequestSnapshot& each : snapshot.requests)
    requests.push_back({{"state", name(each.state)},
                        {"prompt_tokens", each.prompt_tokens},
                        {"cached_tokens", each.cached_tokens},
                        {"evaluated_tokens", each.evaluated_tokens},
                        {"generated_tokens", each.generated_tokens},
                        {"max_tokens", each.max_tokens},
                        {"seconds", each.seconds}});
  const MemorySnapshot& memory = snapshot.memory;
  const Counters& counters = snapshot.counters;
  return {{"requests", std::move(requests)},
          {"running", snapshot.running},
          {"waiting", snapshot.waiting},
          {"paused", snapshot.paused},
          {"step_running_seconds", snapshot.step_running_seconds},
          {"step_expected_seconds", snapshot.step_expected_seconds},
          {"prompt_tokens_per_second", snapshot.prompt_tokens_per_second},
          {"decode_tokens_per_second", snapshot.decode_tokens_per_second},
          {"wait_seconds", snapshot.wait_seconds},
          {"reads", snapshot.reads ? reads_json(*snapshot.reads) : base::Json(nullptr)},
          {"memory",
           {{"budget", memory.budget},
            {"pages_running", memory.pages_running},
            {"pages_cached", memory.pages_cached},
            {"pages_free", memory.pages_free},
            {"states", memory.states_running + memory.states_cached},
            {"routes", memory.routes},
            {"nodes", memory.nodes}}},
          {"counters",
           {{"submitted", counters.submitted},
            {"finished", counters.finished_end + counters.finished_stop + counters.finished_length},
            {"cancelled", counters.cancelled},
            {"failed", counters.failed},
            {"refused", counters.refused_queue + counters.refused_wait + counters.refused_bad},
            {"steps", counters.steps},
            {"busy_seconds", counters.busy_seconds},
            {"prompt_tokens", counters.prompt_tokens},
            {"cached_tokens", counters.cached_tokens},
            {"generated_tokens", counters.generated_tokens}}},
          {"step_seconds", histogram_json(snapshot.histograms.step_seconds)},
          {"step_tokens", histogram_json(snapshot.histograms.step_tokens)},
          {"step_sequences", histogram_json(snapshot.histograms.step_sequences)},
          {"distinct_experts", histogram_json(snapshot.histograms.distinct_experts)},
          {"recent", recent.json()}};
}

std::string page_policy() {
  constexpr std::string_view kBegin = "http-equiv=\"Content-Security-Policy\" content=\"";
  const std::string_view html = page();
  const size_t begin = html.find(kBegin);
  base::require(begin != std::string_view::npos, "page", "has no policy");
  const size_t from = begin + kBegin.size();
  // What a page cannot say itself comes from here: that no other page may frame it.
  return std::string(html.substr(from, html.find('"', from) - from)) + "; frame-ancestors 'none'";
}

HttpResponse page_response() {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.headers = {{"Content-Security-Policy", page_policy()},
                      {"Referrer-Policy", "no-referrer"},
                      {"Cross-Origin-Opener-Policy", "same-origin"}};
  response.body = page();
  return response;
}

}  // namespace coterie::serve
