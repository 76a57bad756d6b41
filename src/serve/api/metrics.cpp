#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <cmath>

#include "serve/api/endpoints.h"

namespace coterie::serve {

namespace {

using Labels = std::vector<std::pair<std::string, std::string>>;

/// Families of metrics, under construction.
class Sheet {
 public:
  void label(Labels common) { common_ = std::move(common); }

  void gauge(const std::string& name, const std::string& help, double value, const Labels& labels = {}) {
    prometheus::ClientMetric metric = labelled(labels);
    metric.gauge.value = value;
    add(name, help, prometheus::MetricType::Gauge, std::move(metric));
  }
  void counter(const std::string& name, const std::string& help, double value, const Labels& labels = {}) {
    prometheus::ClientMetric metric = labelled(labels);
    metric.counter.value = value;
    add(name, help, prometheus::MetricType::Counter, std::move(metric));
  }
  void histogram(const std::string& name, const std::string& help, const Histogram& histogram) {
    prometheus::ClientMetric metric = labelled({});
    metric.histogram.sample_count = histogram.count;
    metric.histogram.sample_sum = histogram.sum;
    uint64_t sum = 0;
    for (size_t i = 0; i < histogram.upper.size(); ++i) {
      sum += histogram.counts[i];
      metric.histogram.bucket.push_back({sum, histogram.upper[i]});
    }
    metric.histogram.bucket.push_back({histogram.count, INFINITY});
    add(name, help, prometheus::MetricType::Histogram, std::move(metric));
  }
  std::string text() const { return prometheus::TextSerializer().Serialize(families_); }

 private:
  prometheus::ClientMetric labelled(const Labels& labels) const {
    prometheus::ClientMetric metric;
    for (const Labels* list : {&common_, &labels})
      for (const auto& [key, value] : *list) metric.label.push_back({key, value});
    return metric;
  }
  void add(const std::string& name, const std::string& help, prometheus::MetricType type,
           prometheus::ClientMetric metric) {
    auto family = std::find_if(families_.begin(), families_.end(), [&](const auto& each) { return each.name == name; });
    if (family == families_.end()) family = families_.insert(family, {name, help, type, {}});
    family->metric.push_back(std::move(metric));
  }

  Labels common_;  // of what is added from here on
  std::vector<prometheus::MetricFamily> families_;
};

double number(uint64_t value) { return static_cast<double>(value); }
double number(int64_t value) { return static_cast<double>(value); }

double share(double part, double whole) { return whole > 0 ? part / whole : 0; }

void our_requests(Sheet& sheet, const Snapshot& now) {
  const Counters& sum = now.counters;
  sheet.gauge("coterie_requests_running", "Requests whose sequences are in the batch", number(now.running));
  sheet.gauge("coterie_requests_waiting", "Requests that wait for their turn", number(now.waiting));
  sheet.gauge("coterie_requests_paused", "Requests whose readers are slower than the model", number(now.paused));
  sheet.gauge("coterie_wait_seconds", "Estimated wait of a request that came now", now.wait_seconds);
  sheet.counter("coterie_requests_submitted_total", "Requests that were accepted", number(sum.submitted));
  const char* const ended = "Requests that ended, by reason";
  sheet.counter("coterie_requests_finished_total", ended, number(sum.finished_end), {{"reason", "end"}});
  sheet.counter("coterie_requests_finished_total", ended, number(sum.finished_stop), {{"reason", "stop"}});
  sheet.counter("coterie_requests_finished_total", ended, number(sum.finished_length), {{"reason", "length"}});
  sheet.counter("coterie_requests_finished_total", ended, number(sum.cancelled), {{"reason", "cancelled"}});
  sheet.counter("coterie_requests_finished_total", ended, number(sum.failed), {{"reason", "failed"}});
  const char* const refused = "Requests that were refused, by reason";
  sheet.counter("coterie_requests_refused_total", refused, number(sum.refused_queue), {{"reason", "queue"}});
  sheet.counter("coterie_requests_refused_total", refused, number(sum.refused_wait), {{"reason", "wait"}});
  sheet.counter("coterie_requests_refused_total", refused, number(sum.refused_bad), {{"reason", "bad"}});
  const Histograms& spread = now.histograms;
  sheet.histogram("coterie_time_to_first_token_seconds", "Seconds from submission to the first token",
                  spread.first_token_seconds);
  sheet.histogram("coterie_inter_token_seconds", "Seconds between two tokens of an answer",
                  spread.between_tokens_seconds);
  sheet.histogram("coterie_queue_seconds", "Seconds from submission until the prompt begins", spread.queue_seconds);
  sheet.histogram("coterie_end_to_end_seconds", "Seconds from submission to the last token", spread.end_to_end_seconds);
  sheet.histogram("coterie_request_prompt_tokens", "Tokens of a prompt", spread.prompt_tokens);
  sheet.histogram("coterie_request_completion_tokens", "Tokens of an answer", spread.completion_tokens);
}

void our_engine(Sheet& sheet, const Snapshot& now, const ServedModel& model) {
  const Counters& sum = now.counters;
  sheet.counter("coterie_prompt_tokens_total", "Tokens of prompts, cached ones included", number(sum.prompt_tokens));
  sheet.counter("coterie_prompt_tokens_cached_total", "Prompt tokens found in the prefix cache",
                number(sum.cached_tokens));
  sheet.counter("coterie_prompt_tokens_evaluated_total", "Prompt tokens that the model evaluated",
                number(sum.evaluated_prompt_tokens));
  sheet.counter("coterie_generated_tokens_total", "Tokens of answers", number(sum.generated_tokens));
  sheet.counter("coterie_drafted_tokens_total", "Tokens that were drafted and verified (speculation)",
                number(sum.drafted_tokens));
  sheet.counter("coterie_accepted_tokens_total", "Drafted tokens that the model accepted", number(sum.accepted_tokens));
  sheet.gauge("coterie_prompt_tokens_per_second", "Lately", now.prompt_tokens_per_second);
  sheet.gauge("coterie_generated_tokens_per_second", "Tokens a second, lately, of all answers together",
              now.decode_tokens_per_second);
  sheet.counter("coterie_steps_total", "Steps of the engine", number(sum.steps));
  sheet.counter("coterie_steps_decode_only_total", "Steps that read no prompt", number(sum.decode_only_steps));
  sheet.counter("coterie_busy_seconds_total", "Seconds within steps", sum.busy_seconds);
  sheet.gauge("coterie_step_running_seconds", "Seconds since the step under way began", now.step_running_seconds);
  sheet.gauge("coterie_stall_floor_seconds", "Seconds that a prompt holds up others at the least",
              now.stall_floor_seconds);
  sheet.histogram("coterie_step_seconds", "A step", now.histograms.step_seconds);
  sheet.histogram("coterie_step_tokens", "Tokens of a step", now.histograms.step_tokens);
  sheet.histogram("coterie_step_sequences", "Sequences of a step", now.histograms.step_sequences);
  sheet.histogram("coterie_step_distinct_experts", "Distinct experts of a step and a layer",
                  now.histograms.distinct_experts);
  const char* const where = "Bytes of the cache's budget that are in use";
  const MemorySnapshot& memory = now.memory;
  sheet.gauge("coterie_cache_budget_bytes", "Bytes that pages, states, routes and the tree may take",
              number(memory.budget));
  sheet.gauge("coterie_cache_bytes", where, number(memory.pages_running), {{"part", "pages_running"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.pages_cached), {{"part", "pages_cached"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.pages_free), {{"part", "pages_free"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.states_running), {{"part", "states_running"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.states_cached), {{"part", "states_cached"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.routes), {{"part", "routes"}});
  sheet.gauge("coterie_cache_bytes", where, number(memory.nodes), {{"part", "nodes"}});
  sheet.counter("coterie_prefix_cache_hits_total", "Requests that found a part of their prompt in the cache",
                number(sum.cache_hits));
  sheet.counter("coterie_prefix_cache_misses_total", "Requests that found nothing of their prompt in the cache",
                number(sum.cache_misses));
  sheet.counter("coterie_pages_evicted_total", "Pages that were evicted", number(sum.pages_evicted));
  sheet.counter("coterie_states_evicted_total", "Copies of recurrent states that were evicted",
                number(sum.states_evicted));
  sheet.counter("coterie_disk_pages_read_total", "Pages of prefixes that came back from the disk",
                number(sum.disk_pages_read));
  sheet.counter("coterie_disk_pages_written_total", "Pages of prefixes that were written to the disk",
                number(sum.disk_pages_written));
  sheet.counter("coterie_disk_pages_damaged_total", "Pages that were read back with other bytes than were written",
                number(sum.disk_pages_damaged));
  sheet.gauge("coterie_disk_failed", "Whether the disk has refused to be written to", now.disk_failed ? 1 : 0);
  for (size_t routed = 0; routed < sum.expert_tokens.size(); ++routed)
    for (size_t expert = 0; expert < sum.expert_tokens[routed].size(); ++expert)
      sheet.counter("coterie_expert_tokens_total", "Tokens that went to an expert",
                    number(sum.expert_tokens[routed][expert]),
                    {{"layer", std::to_string(model.routed_layers[routed])}, {"expert", std::to_string(expert)}});
}

void our_reads(Sheet& sheet, const runtime::StreamReport& reads) {
  sheet.gauge("coterie_expert_slots", "Experts that memory has room for; the others are read from the disk",
              number(reads.slots));
  sheet.gauge("coterie_experts", "Experts of all layers", number(reads.experts));
  const auto kind = [&](const char* name, const runtime::StreamFigures::Kind& of) {
    const Labels labels = {{"kind", name}};
    sheet.counter("coterie_expert_hits_total", "Experts that were in memory when a layer asked", number(of.hits),
                  labels);
    sheet.counter("coterie_expert_misses_total", "Experts that had to be read", number(of.misses), labels);
    sheet.counter("coterie_expert_tokens_streamed_total", "Tokens that layers asked for", number(of.tokens), labels);
    sheet.counter("coterie_expert_read_bytes_total", "Bytes of experts that came from the disk", number(of.bytes),
                  labels);
    sheet.counter("coterie_expert_read_ahead_bytes_total", "Of them, those that came before a layer asked",
                  number(of.ahead_bytes), labels);
    sheet.counter("coterie_experts_prefetched_total", "Experts that a layer was expected to ask for", number(of.ahead),
                  labels);
    sheet.counter("coterie_experts_prefetched_rightly_total", "Of them, those that it asked for", number(of.ahead_used),
                  labels);
    sheet.counter("coterie_expert_read_seconds_total", "Seconds in which the disk was asked for experts", of.reading,
                  labels);
    sheet.counter("coterie_expert_stall_seconds_total", "Of them, in which there was nothing to compute", of.stalled,
                  labels);
  };
  kind("decode", reads.figures.decode), kind("prompt", reads.figures.prompt);
  sheet.gauge("coterie_expert_disk_bytes_per_second", "While the disk was asked for experts",
              reads.figures.bytes_per_second());
  sheet.gauge("coterie_expert_disk_share", "Of the rate that the disk gave at the start; 0: not known", reads.share());
}

void vllm_names(Sheet& sheet, const Snapshot& now) {
  const Counters& sum = now.counters;
  const Histograms& spread = now.histograms;
  sheet.gauge("vllm:num_requests_running", "Requests in the batch", number(now.running));
  sheet.gauge("vllm:num_requests_waiting", "Requests that wait", number(now.waiting));
  sheet.gauge("vllm:kv_cache_usage_perc", "Share of the cache that running requests hold",
              share(number(now.memory.pages_running), number(now.memory.budget)));
  sheet.counter("vllm:prefix_cache_queries_total", "Tokens looked for in the prefix cache", number(sum.prompt_tokens));
  sheet.counter("vllm:prefix_cache_hits_total", "Tokens found in the prefix cache", number(sum.cached_tokens));
  sheet.counter("vllm:prompt_tokens_total", "Tokens of prompts", number(sum.prompt_tokens));
  sheet.counter("vllm:prompt_tokens_cached_total", "Of them, found in the prefix cache", number(sum.cached_tokens));
  sheet.counter("vllm:generation_tokens_total", "Tokens of answers", number(sum.generated_tokens));
  sheet.counter("vllm:num_preemptions_total", "Requests put off for want of memory", 0);
  sheet.counter("vllm:request_success_total", "Requests that ended", number(sum.finished_end + sum.finished_stop),
                {{"finished_reason", "stop"}});
  sheet.counter("vllm:request_success_total", "Requests that ended", number(sum.finished_length),
                {{"finished_reason", "length"}});
  sheet.counter("vllm:request_success_total", "Requests that ended", number(sum.cancelled),
                {{"finished_reason", "abort"}});
  sheet.histogram("vllm:time_to_first_token_seconds", "From submission to the first token", spread.first_token_seconds);
  sheet.histogram("vllm:inter_token_latency_seconds", "Seconds between two tokens", spread.between_tokens_seconds);
  sheet.histogram("vllm:e2e_request_latency_seconds", "From submission to the last token", spread.end_to_end_seconds);
  sheet.histogram("vllm:request_queue_time_seconds", "Seconds in the queue", spread.queue_seconds);
  sheet.histogram("vllm:iteration_tokens_total", "Tokens of a step", spread.step_tokens);
  sheet.histogram("vllm:request_prompt_tokens", "Tokens of a prompt", spread.prompt_tokens);
  sheet.histogram("vllm:request_generation_tokens", "Tokens of an answer", spread.completion_tokens);
}

void llama_names(Sheet& sheet, const Snapshot& now) {
  const Counters& sum = now.counters;
  const double decoding = now.histograms.between_tokens_seconds.sum;
  sheet.counter("llamacpp:prompt_tokens_total", "Prompt tokens that were evaluated",
                number(sum.evaluated_prompt_tokens));
  sheet.counter("llamacpp:prompt_tokens_cached_total", "Prompt tokens found in the cache", number(sum.cached_tokens));
  sheet.counter("llamacpp:prompt_seconds_total", "Seconds in which prompts were read",
                std::max(0.0, sum.busy_seconds - decoding));
  sheet.counter("llamacpp:tokens_predicted_total", "Tokens of answers", number(sum.generated_tokens));
  sheet.counter("llamacpp:tokens_predicted_seconds_total", "Seconds between tokens", decoding);
  sheet.counter("llamacpp:n_decode_total", "Steps", number(sum.steps));
  sheet.counter("llamacpp:n_tokens_max", "Tokens of the longest sequence", number(sum.longest_sequence));
  // No draft model runs here.
  sheet.counter("llamacpp:spec_decode_num_draft_tokens_total", "Tokens that were drafted", 0);
  sheet.counter("llamacpp:spec_decode_num_accepted_tokens_total", "Drafted tokens that were accepted", 0);
  sheet.counter("llamacpp:spec_decode_num_drafts_total", "Drafts", 0);
  sheet.gauge("llamacpp:prompt_tokens_seconds", "Prompt tokens a second, lately", now.prompt_tokens_per_second);
  sheet.gauge("llamacpp:predicted_tokens_seconds", "Tokens of answers a second, lately", now.decode_tokens_per_second);
  sheet.gauge("llamacpp:requests_processing", "Requests in the batch", number(now.running));
  sheet.gauge("llamacpp:requests_deferred", "Requests that wait", number(now.waiting));
  sheet.gauge("llamacpp:n_busy_slots_per_decode", "Sequences of a step, on average",
              share(now.histograms.step_sequences.sum, number(now.histograms.step_sequences.count)));
}

}  // namespace

std::string metrics_text(const std::vector<ShelvedModel>& models, size_t connections, MetricNames names) {
  Sheet sheet;
  if (names == MetricNames::coterie)
    sheet.gauge("coterie_connections", "Open connections", number(uint64_t{connections}));
  for (const ShelvedModel& each : models) {
    const Labels whose = {{names == MetricNames::vllm ? "model_name" : "model", each.name}};
    sheet.label(models.size() > 1 || names == MetricNames::vllm ? whose : Labels());
    if (names == MetricNames::coterie && models.size() > 1)
      sheet.gauge("coterie_model_loaded", "Whether a model is in memory", each.ready ? 1 : 0);
    if (!each.ready) continue;
    const Snapshot snapshot = each.ready->backend->snapshot();
    if (names == MetricNames::vllm) {
      vllm_names(sheet, snapshot);
    } else if (names == MetricNames::llamacpp) {
      llama_names(sheet, snapshot);
    } else {
      our_requests(sheet, snapshot);
      our_engine(sheet, snapshot, *each.ready->served);
      if (snapshot.reads) our_reads(sheet, *snapshot.reads);
    }
  }
  return sheet.text();
}

}  // namespace coterie::serve
