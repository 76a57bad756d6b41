#include <algorithm>

#include "serve/runner.h"

// What a runner counts, and tells of itself.
namespace coterie::serve {

namespace {

std::vector<double> seconds_bounds() {
  return {0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600};
}
std::vector<double> powers_of_two(int most) {
  std::vector<double> bounds;
  for (int64_t bound = 1; bound <= int64_t{1} << most; bound *= 2) bounds.push_back(static_cast<double>(bound));
  return bounds;
}

}  // namespace

Histograms empty_histograms() {
  Histograms all;
  for (Histogram* each : {&all.first_token_seconds, &all.queue_seconds, &all.end_to_end_seconds, &all.step_seconds})
    each->upper = seconds_bounds();
  all.between_tokens_seconds.upper = {0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 2, 5};
  all.step_tokens.upper = powers_of_two(12);
  all.step_sequences.upper = powers_of_two(8);
  all.distinct_experts.upper = powers_of_two(9);
  all.prompt_tokens.upper = powers_of_two(18), all.completion_tokens.upper = powers_of_two(16);
  for (Histogram* each : {&all.first_token_seconds, &all.between_tokens_seconds, &all.queue_seconds,
                          &all.end_to_end_seconds, &all.step_seconds, &all.step_tokens, &all.step_sequences,
                          &all.distinct_experts, &all.prompt_tokens, &all.completion_tokens})
    each->counts.resize(each->upper.size() + 1);
  return all;
}

void Runner::retire() {
  for (const auto& sequence : running_) {
    if (!sequence->ended()) continue;
    const Sequence::End& end = sequence->how();
    counters_.prompt_tokens += static_cast<uint64_t>(end.usage.prompt_tokens);
    counters_.cached_tokens += static_cast<uint64_t>(end.usage.cached_tokens);
    counters_.generated_tokens += static_cast<uint64_t>(end.usage.completion_tokens);
    const int64_t tokens = end.usage.prompt_tokens + end.usage.completion_tokens;
    counters_.longest_sequence = std::max(counters_.longest_sequence, static_cast<uint64_t>(tokens));
    histograms_.prompt_tokens.add(static_cast<double>(end.usage.prompt_tokens));
    histograms_.completion_tokens.add(static_cast<double>(end.usage.completion_tokens));
    if (const runtime::Speculator* const speculator = sequence->speculator()) {
      counters_.drafted_tokens += static_cast<uint64_t>(speculator->statistics().drafted);
      counters_.accepted_tokens += static_cast<uint64_t>(speculator->statistics().accepted);
    }
    const double whole = sequence->ticket().since.seconds();
    if (!end.reason) {
      ++counters_.failed;
      continue;
    }
    if (*end.reason == FinishReason::cancelled) {
      ++counters_.cancelled;
    } else {
      histograms_.end_to_end_seconds.add(whole);
      if (end.usage.completion_tokens > 0) histograms_.first_token_seconds.add(end.timings.first_token_seconds);
      const double running = whole - end.timings.queued_seconds;
      answer_seconds_ = answer_seconds_ == 0 ? running : 0.9 * answer_seconds_ + 0.1 * running;
      ++(*end.reason == FinishReason::end_token     ? counters_.finished_end
         : *end.reason == FinishReason::stop_string ? counters_.finished_stop
                                                    : counters_.finished_length);
    }
    if (options_.prefix_cache) sequence->keep(tree_, true);
  }
  const auto gone = std::erase_if(running_, [](const auto& sequence) { return sequence->ended(); });
  if (gone > 0) least_refused_ = INT64_MAX, has_ended_ = true;
  if (gone > 0 && budget_.states > 0) tree_.limit_states(budget_.states - budget_.states_of_sequence * running());
}

namespace {

std::vector<std::vector<uint8_t>> expert_places(const runtime::ModelBytes& bytes, const RouteLayout& layout) {
  std::vector<std::vector<uint8_t>> places(static_cast<size_t>(layout.layers));
  for (const runtime::ModelBytes::Layer& layer : bytes.layers()) {
    if (layer.layer < 0 || layer.layer >= std::ssize(layout.layer)) continue;
    const int64_t routed = layout.layer[static_cast<size_t>(layer.layer)];
    if (routed < 0) continue;
    for (const runtime::Where where : layer.experts)
      places[static_cast<size_t>(routed)].push_back(static_cast<uint8_t>(where));
  }
  return places;
}

}  // namespace

void Runner::report(Snapshot& snapshot) const {
  const runtime::PagePool& pool = *engine_.pages();
  const int64_t page = pool.page_bytes(), state = engine_.cache().state.bytes(), in_use = pool.pages_in_use();
  if (memory_age_.seconds() > 0.5 || running_.empty()) {
    // It looks at every page of the tree.
    evictable_ = engine_.cache().page_bytes() > 0 ? std::min(tree_.evictable(), in_use) : 0;
    memory_age_.restart();
  }
  snapshot.memory = {.budget = budget_.memory,
                     .pages_running = (in_use - evictable_) * page,
                     .pages_cached = evictable_ * page,
                     .pages_free = pool.capacity() - in_use * page,
                     .states_running = running() * budget_.states_of_sequence * state,
                     .states_cached = tree_.states() * state,
                     .routes = rules_.keep_routes ? in_use * rules_.routes.page_bytes() : 0,
                     .nodes = tree_.nodes() * kNodeBytes};
  // It looks at every weight: at most a hundredth of the time goes there.
  if (rules_.routes.layers > 0 &&
      (places_.empty() || running_.empty() || places_age_.seconds() > std::max(1.0, 100 * places_took_))) {
    const base::Stopwatch clock;
    places_ = expert_places(engine_.bytes(), rules_.routes);
    places_took_ = clock.seconds();
    places_age_.restart();
  }
  snapshot.expert_places = places_;
  snapshot.counters = counters_;
  snapshot.counters.pages_evicted = tree_.pages_evicted();
  snapshot.counters.states_evicted = tree_.states_evicted();
  if (const runtime::PageStore* store = tree_.store()) {
    snapshot.counters.disk_pages_read = store->pages_read();
    snapshot.counters.disk_pages_written = store->pages_written();
    snapshot.counters.disk_pages_damaged = store->damaged();
    snapshot.disk_failed = store->failed();
  }
  snapshot.counters.expert_tokens = recorder_.expert_tokens;
  snapshot.histograms = histograms_;
  snapshot.reads = engine_.bytes().stream_report();
  snapshot.prompt_tokens_per_second = cost_.prompt_rate();
  snapshot.decode_tokens_per_second = decode_rate_;
  snapshot.step_fixed_seconds = cost_.line().fixed, snapshot.step_token_seconds = cost_.line().each;
  snapshot.stall_floor_seconds = cost_.floor_seconds(options_.stall_seconds);
}

}  // namespace coterie::serve
