#include "serve/runner.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "runtime/ensemble_parts.h"

namespace coterie::serve {

double Runner::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Runner::Runner(runtime::Engine& engine, const SchedulerOptions& options, const std::atomic<bool>& stopping)
    : engine_(engine),
      options_(options),
      stopping_(stopping),
      rules_(engine, options.keep_routes),
      budget_(cache_budget(engine.cache(), rules_.routes, rules_.keep_routes, options.cache_memory)),
      tree_(engine.pages(), engine.shared_cache_shape(), budget_.states),
      recorder_(rules_.routes),
      order_(options.ageing_seconds),
      histograms_(empty_histograms()) {
  listens_to_gate_ = runtime::listen_to_gate(engine_, [this](tensor::ConstMatrix weights) {
    models_ = weights.cols;
    model_weights_.assign(weights.data, weights.data + weights.rows * weights.cols);
  });
  if (options_.cache_dir.empty() || !options_.prefix_cache) return;
  tree_.keep_on(
      std::make_unique<runtime::PageStore>(runtime::PageStore::Options{
          .folder = options_.cache_dir, .fingerprint = options_.fingerprint, .limit = options_.cache_dir_bytes}),
      rules_.keep_routes ? ops::kCacheBlock * rules_.routes.position() : 0);
}

Runner::~Runner() = default;

void Runner::take(std::shared_ptr<Ticket> ticket) { waiting_.push_back(std::move(ticket)); }

std::optional<std::string> Runner::shared_key(const Ticket& ticket) const {
  const Request& request = ticket.request;
  const bool looks = options_.prefix_cache && rules_.shares(request) && request.use_cache &&
                     request.prompt_logprobs < 0 && request.pooling == Request::Pooling::none;
  if (!looks) return {};
  return rules_.key(request, std::ssize(request.prompt));
}

int64_t Runner::uncached(const Ticket& ticket) const {
  const auto key = shared_key(ticket);
  return std::ssize(ticket.request.prompt) - (key ? tree_.known(*key, ticket.request.prompt) : 0);
}

void Runner::end_cancelled() {
  for (const auto& sequence : running_)
    if (!sequence->ended() && sequence->ticket().cancelled) sequence->end(FinishReason::cancelled);
  std::erase_if(waiting_, [&](const std::shared_ptr<Ticket>& ticket) {
    if (!ticket->cancelled) return false;
    ticket->ended = has_ended_ = true;
    ++counters_.cancelled;
    ticket->send(Finished{.reason = FinishReason::cancelled,
                          .usage = {.prompt_tokens = std::ssize(ticket->request.prompt)},
                          .timings = {.queued_seconds = ticket->since.seconds()}});
    return true;
  });
}

int64_t Runner::pages_free() const {
  const int64_t room = engine_.pages()->room();
  if (room == INT64_MAX) return room;
  int64_t promised = 0;
  for (const auto& sequence : running_) promised += std::max<int64_t>(sequence->pages_to_come(), 0);
  return room + tree_.evictable() - promised;
}

bool Runner::admit(size_t number) {
  const std::shared_ptr<Ticket> ticket = waiting_[number];
  if (budget_.states > 0) {
    const int64_t left = budget_.states - budget_.states_of_sequence * (running() + 1);
    if (left < 0) return false;
    tree_.limit_states(left);
  }
  if (engine_.cache().page_bytes() > 0) {
    // Pages of its beginning that others hold too exist; those that only the tree holds it takes from what
    // could be evicted.
    int64_t pages = ticket->pages;
    if (const auto key = shared_key(*ticket)) pages -= tree_.in_use(*key, ticket->request.prompt);
    if (pages >= least_refused_) return false;  // nothing has ended since
    if (pages_free() < pages) {
      least_refused_ = pages;
      return false;
    }
  }
  waiting_.erase(waiting_.begin() + static_cast<int64_t>(number));
  order_.begins(ticket->request.client);
  const double queued = ticket->since.seconds();
  try {
    auto sequence = std::make_unique<Sequence>(rules_, ticket, options_.speculator ? options_.speculator() : nullptr);
    if (options_.prefix_cache) sequence->catch_up(tree_);
    histograms_.queue_seconds.add(queued);
    ++(sequence->cache().length() > 0 ? counters_.cache_hits : counters_.cache_misses);
    sequence->tell_progress(cost_.prompt_rate());
    running_.push_back(std::move(sequence));
  } catch (...) {
    ticket->ended = has_ended_ = true;
    ++counters_.failed;
    send_failure(*ticket, std::current_exception(), {.prompt_tokens = std::ssize(ticket->request.prompt)});
  }
  return true;
}

bool Runner::reads_beside(const Sequence& sequence, const std::vector<Part>& parts) const {
  // A beginning that another is reading in this very step is not read twice: it will be there for the next one.
  if (!options_.prefix_cache || !sequence.shares() || !sequence.request().use_cache || sequence.embeds()) return true;
  const auto at = static_cast<size_t>(sequence.cache().length() / ops::kCacheBlock * ops::kCacheBlock);
  const size_t end = at + static_cast<size_t>(ops::kCacheBlock);
  return std::none_of(parts.begin(), parts.end(), [&](const Part& part) {
    const Sequence& other = *part.sequence;
    if (!part.reading || other.key() != sequence.key() || end > other.all().size() || end >= sequence.all().size())
      return false;
    const int64_t reaches = other.cache().length() + std::ssize(other.pending());
    return other.cache().length() < static_cast<int64_t>(end) && reaches >= static_cast<int64_t>(end) &&
           std::equal(sequence.all().begin(), sequence.all().begin() + static_cast<int64_t>(end), other.all().begin());
  });
}

void Runner::add_prompts(std::vector<Part>& parts, int64_t budget) {
  // Who is looked at: sequences that read, then those that wait, in the order of their submission.
  struct Source {
    Sequence* sequence;
    Ticket* ticket;
  };
  std::vector<Source> sources;
  std::vector<PromptCandidate> candidates;
  const double rate = std::max(cost_.prompt_rate(), 1e-9);
  const auto add = [&](Sequence* sequence, Ticket& ticket, int64_t left) {
    sources.push_back({sequence, &ticket});
    candidates.push_back({.client = ticket.request.client,
                          .priority = ticket.request.priority,
                          .waited_seconds = ticket.since.seconds(),
                          .remaining_seconds = static_cast<double>(left) / rate,
                          .begun = sequence != nullptr});
  };
  for (const auto& sequence : running_) {
    if (sequence->ended() || sequence->ticket().paused || !sequence->reading()) continue;
    if (options_.prefix_cache) sequence->catch_up(tree_);
    add(sequence.get(), sequence->ticket(), std::ssize(sequence->pending()));
  }
  for (const auto& ticket : waiting_)
    if (!ticket->paused) add(nullptr, *ticket, uncached(*ticket));
  while (budget > 0) {
    const auto next = order_.next(candidates);
    if (!next) return;
    Source source = sources[*next];
    sources.erase(sources.begin() + static_cast<int64_t>(*next));
    const double waited = candidates[*next].waited_seconds;
    candidates.erase(candidates.begin() + static_cast<int64_t>(*next));
    if (!source.sequence) {
      const auto at =
          std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& t) { return t.get() == source.ticket; });
      const auto before = running_.size();
      if (running() >= options_.parallel || !admit(static_cast<size_t>(at - waiting_.begin()))) {
        // Smaller ones may pass it, but not for ever.
        if (running() >= options_.parallel || waited > options_.ageing_seconds) return;
        continue;
      }
      if (running_.size() == before) continue;  // it failed
      source.sequence = running_.back().get();
    }
    if (!reads_beside(*source.sequence, parts)) continue;
    const int64_t count = source.sequence->piece(budget);
    if (!make_room(*source.sequence, count)) continue;
    parts.push_back({source.sequence, count, true});
    budget -= count;
    if (count < std::ssize(source.sequence->pending())) return;  // one prompt at a time
  }
}

bool Runner::make_room(Sequence& sequence, int64_t count) {
  const int64_t positions = sequence.cache().length() + count;
  const int64_t wanted = (positions + ops::kCacheBlock - 1) / ops::kCacheBlock - std::ssize(sequence.cache().pages());
  const int64_t room = engine_.pages()->room();
  if (engine_.cache().page_bytes() > 0 && wanted > room) tree_.evict(wanted - room);
  try {
    // Here and not with the others', so that pages given up for this one are not counted on by the next.
    sequence.reserve(count);
    return true;
  } catch (...) {
    sequence.fail(std::current_exception());
    return false;
  }
}

std::vector<Runner::Part> Runner::compose() {
  std::vector<Part> parts;
  for (const auto& sequence : running_) {
    if (sequence->ended() || sequence->ticket().paused) continue;
    sequence->restart_if_rescaled();
    if (sequence->reading()) continue;
    const int64_t count = sequence->piece(std::ssize(sequence->pending()));
    if (make_room(*sequence, count)) parts.push_back({sequence.get(), count, false});
  }
  const int64_t decoding = std::ssize(parts);
  int64_t budget = engine_.step_tokens();
  if (decoding > 0) {
    if (decode_steps_left_ > 0) {
      --decode_steps_left_;
      return parts;
    }
    budget = std::min(std::max<int64_t>(budget - decoding, 1), cost_.chunk(options_.stall_seconds));
  }
  add_prompts(parts, budget);
  if (decoding > 0 && std::ssize(parts) > decoding)
    decode_steps_left_ = cost_.decode_steps_after(options_.stall_seconds, decoding);
  return parts;
}

void Runner::draft(std::vector<Part>& parts) {
  if (!options_.speculator) return;
  // Not beside prompts: what such a step costs says nothing of the next.
  if (std::any_of(parts.begin(), parts.end(), [](const Part& part) { return part.reading; })) return;
  int64_t rows = std::ssize(parts);
  const int64_t sure = rows;
  for (const Part& part : parts) {
    try {
      rows += part.sequence->draft(rows, sure);
    } catch (...) {
      part.sequence->fail(std::current_exception());
    }
  }
}

bool Runner::work() {
  end_cancelled();
  retire();
  std::vector<Part> parts = compose();
  std::erase_if(parts, [](const Part& part) { return part.sequence->ended(); });
  draft(parts);
  std::erase_if(parts, [](const Part& part) { return part.sequence->ended(); });
  // A pass gives logits or hidden states.
  const auto embeds =
      std::stable_partition(parts.begin(), parts.end(), [](const Part& part) { return !part.sequence->embeds(); });
  std::vector<Part> embedded(embeds, parts.end());
  const bool any = !parts.empty();
  parts.erase(embeds, parts.end());
  if (!parts.empty()) step(parts, false);
  if (!embedded.empty()) step(embedded, true);
  const bool ended = std::any_of(running_.begin(), running_.end(), [](const auto& s) { return s->ended(); });
  retire();
  tell_places();
  return any || ended;
}

void Runner::tell_places() {
  int64_t tokens = 0;
  for (const auto& sequence : running_)
    if (sequence->reading()) tokens += std::ssize(sequence->pending());
  for (size_t i = 0; i < waiting_.size(); ++i) {
    Ticket& ticket = *waiting_[i];
    const double rate = cost_.prompt_rate();
    if (ticket.ahead != static_cast<int64_t>(i)) {
      ticket.ahead = static_cast<int64_t>(i);
      ticket.send(Queued{.ahead = ticket.ahead, .wait_seconds = rate > 0 ? static_cast<double>(tokens) / rate : 0});
    }
    tokens += std::ssize(ticket.request.prompt);
  }
}

void Runner::step(std::vector<Part>& parts, bool hidden) {
  std::vector<models::SequenceStep> steps;
  std::vector<char> left(parts.size());
  std::vector<std::function<bool(int64_t)>> leaves(parts.size());
  std::vector<MaskWorker::Job> masks;
  int64_t reading = 0, decoding = 0, tokens = 0;
  recorder_.clear();
  model_weights_.clear();
  for (size_t i = 0; i < parts.size(); ++i) {
    Sequence& sequence = *parts[i].sequence;
    leaves[i] = [&, i](int64_t) {
      return left[i] = left[i] || stopping_.load(std::memory_order_relaxed) ||
                       parts[i].sequence->ticket().cancelled.load(std::memory_order_relaxed);
    };
    steps.push_back(sequence.begin_step(parts[i].count, &leaves[i]));
    tokens += std::ssize(steps.back().ids);
    (parts[i].reading ? reading : decoding) += parts[i].reading ? std::ssize(steps.back().ids) : 1;
    if (rules_.keep_routes) recorder_.watch(steps.back().state, sequence.routes());
    if (const auto job = sequence.mask_job()) masks.push_back(*job);
  }
  step_expected = cost_.seconds(reading, decoding);
  step_began = now();
  const base::Stopwatch clock;
  masks_.start(std::move(masks));
  const int64_t disk_before = disk_bytes();
  tensor::Matrix logits;
  try {
    // Steps that nobody looks at may be divided over ranks.
    const bool looks = rules_.keep_routes || models_ > 0;
    logits = engine_.evaluate(steps, {.observer = looks ? &recorder_ : nullptr, .hidden = hidden});
  } catch (...) {
    // It concerns all, and whoever reads most likely brought it about.
    masks_.wait();
    step_began = 0;
    for (const Part& part : parts)
      if (part.reading || reading == 0) part.sequence->fail(std::current_exception());
    return;
  }
  masks_.wait();
  const double seconds = clock.seconds();
  if (std::none_of(left.begin(), left.end(), [](char gone) { return gone; })) {
    if (reading > 0 || tokens == decoding) cost_.measured(reading, decoding, seconds);
    if (runtime::Speculator* const speculator = parts.front().sequence->speculator(); speculator && reading == 0)
      speculator->costs().measured(tokens, seconds);  // the same for all sequences
  }
  counters_.evaluated_prompt_tokens += static_cast<uint64_t>(reading);
  ++counters_.steps;
  if (reading == 0) ++counters_.decode_only_steps;
  histograms_.step_tokens.add(static_cast<double>(tokens));
  histograms_.step_sequences.add(static_cast<double>(parts.size()));
  for (const int64_t experts : recorder_.distinct) histograms_.distinct_experts.add(static_cast<double>(experts));
  take_logits(parts, left, logits, {disk_before < 0 ? -1 : disk_bytes() - disk_before, tokens});
  counters_.busy_seconds += clock.seconds();
  histograms_.step_seconds.add(clock.seconds());
  step_began = 0;
}

int64_t Runner::disk_bytes() const {
  runtime::ExpertStore* const store = engine_.bytes().store();
  if (!store) return -1;
  const runtime::StreamFigures& figures = store->figures();
  return figures.decode.bytes + figures.prompt.bytes;
}

void Runner::take_logits(std::vector<Part>& parts, const std::vector<char>& left, tensor::Matrix logits,
                         const Sequence::StepReads& reads) {
  std::vector<int64_t> first_row(parts.size());
  int64_t row = 0;
  for (size_t i = 0; i < parts.size(); ++i) first_row[i] = row, row += parts[i].sequence->rows();
  engine_.context().pool.each(std::ssize(parts), [&](int64_t task, int) {
    const auto i = static_cast<size_t>(task);
    if (left[i]) return;
    const int64_t rows = parts[i].sequence->rows();
    const bool gated = !model_weights_.empty();
    const tensor::ConstMatrix weights(gated ? model_weights_.data() + first_row[i] * models_ : nullptr, rows,
                                      gated ? models_ : 0);
    parts[i].sequence->weigh(logits.row_range(first_row[i], first_row[i] + rows), weights);
  });
  std::vector<double> gaps;
  for (size_t i = 0; i < parts.size(); ++i) {
    Sequence& sequence = *parts[i].sequence;
    if (left[i]) {
      sequence.end(FinishReason::cancelled);
      continue;
    }
    try {
      // Before it may end: its pages are to be there for whoever waits for the same beginning.
      if (parts[i].reading && options_.prefix_cache) sequence.keep(tree_);
      sequence.deliver(gaps, reads);
      if (parts[i].reading && !sequence.ended()) sequence.tell_progress(cost_.prompt_rate());
    } catch (...) {
      sequence.fail(std::current_exception());
    }
  }
  for (const double gap : gaps) histograms_.between_tokens_seconds.add(gap);
  if (gaps.empty()) return;
  double sum = 0;
  for (const double gap : gaps) sum += gap;
  const double rate = static_cast<double>(gaps.size() * gaps.size()) / std::max(sum, 1e-9);
  decode_rate_ = decode_rate_ == 0 ? rate : 0.8 * decode_rate_ + 0.2 * rate;
}

void Runner::cancel_all() {
  for (const auto& ticket : waiting_) ticket->cancelled = true;
  for (const auto& sequence : running_) sequence->ticket().cancelled = true;
  end_cancelled();
  retire();
}

}  // namespace coterie::serve
