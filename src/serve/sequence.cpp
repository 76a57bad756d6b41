#include "serve/sequence.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <utility>
#include <variant>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::serve {

using Logits = models::SequenceStep::Logits;

SequenceRules::SequenceRules(runtime::Engine& its_engine, bool keep)
    : engine(its_engine), routes(its_engine.spec()), keep_routes(keep && routes.layers > 0) {
  for (const models::BlockSpec& block : engine.spec().blocks) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe) continue;
    const layers::RouterSpec& router = moe->router;
    if (router.capacity && router.always.capacity)
      throw base::Error(base::ErrorKind::unsupported, "router",
                        "an expert capacity makes every answer depend on who else is being answered",
                        "serve without it");
    const layers::RouterKind& kind = layers::kind_of(router.selection);
    not_causal |= !kind.causal;
    random_routers |= kind.draws || router.always.noise || router.always.jitter;
  }
}

bool SequenceRules::shares(const Request& request) const {
  return !not_causal && (!request.routers || !request.routers_key.empty());
}

std::string SequenceRules::key(const Request& request, int64_t length) const {
  runtime::PrefixFields fields{.salt = request.cache_salt, .model_weights = request.model_weights};
  if (random_routers || request.routers_draw) fields.seed = request.sampler.seed;
  if (request.routers) fields.routers = request.routers_key;
  return prefix_key(*engine.model().decoder, fields, length);
}

Sequence::Sequence(const SequenceRules& rules, std::shared_ptr<Ticket> ticket,
                   std::unique_ptr<runtime::Speculator> speculator)
    : rules_(rules),
      ticket_(std::move(ticket)),
      sampler_(std::move(*ticket_->sampler)),
      stops_(request().stop),
      decoder_(std::move(ticket_->decoder)),
      cache_(rules.engine.make_cache()),
      all_(request().prompt),
      told_(all_.size()),
      speculator_(std::move(speculator)),
      queued_seconds_(ticket_->since.seconds()) {
  if (request().constraint) {
    mask_.bits.resize(static_cast<size_t>((rules_.engine.spec().vocabulary + 31) / 32));
    if (request().max_tokens != 0) extend_by_force();
  }
  key_ = rules_.key(request(), std::max(std::ssize(all_), written_for_));
  ticket_->state = RequestState::reading;
}

void Sequence::restart_if_rescaled() {
  if (cache_.length() == 0 || !models::starts_anew(*rules_.engine.model().decoder, written_for_, std::ssize(all_)))
    return;
  cache_.truncate(0);
  routes_.clear();
  routes_told_ = 0;
  key_ = rules_.key(request(), std::max(std::ssize(all_), written_for_));
}

void Sequence::catch_up(runtime::PrefixCache& tree) {
  const bool first = !std::exchange(looked_up_, true);
  if (!shares() || !request().use_cache || request().prompt_logprobs >= 0 || embeds()) {
    if (first)
      miss_ = rules_.not_causal      ? "the model's routers look at tokens to come: nothing is shared"
              : !shares()            ? "what is changed of its routers has no key"
              : !request().use_cache ? "the request asked for it to be bypassed"
              : embeds()             ? "an embedding needs the hidden states of all of it"
                                     : "logarithms of the prompt's probabilities need all of it computed";
    return;
  }
  // The last token is evaluated in any case: its logits are what is continued.
  runtime::PrefixCache::Found found = tree.find(key_, std::span(all_).first(all_.size() - 1));
  if (first) miss_ = std::move(found.miss);
  if (found.positions <= cache_.length()) return;
  cached_ +=
      std::min(found.positions, std::ssize(request().prompt)) - std::min(cache_.length(), std::ssize(request().prompt));
  cache_.adopt(found.pages, found.positions, std::move(found.state));
  if (rules_.keep_routes) routes_ = std::move(found.routes);
  written_for_ = std::ssize(all_);
  ticket_->cached = cached_;
  ticket_->evaluated = cache_.length();
}

void Sequence::keep(runtime::PrefixCache& tree, bool all) {
  if (!shares()) return;
  const auto& decoder = *rules_.engine.model().decoder;
  int64_t length = cache_.length();
  // Where keys depend on the length that a sequence had when they were written, those of an answer are its own.
  if (!decoder.cache_holds(1, std::ssize(all_)) && !models::starts_anew(decoder, 1, std::ssize(all_)))
    length = std::min(length, std::ssize(request().prompt));
  length = length / ops::kCacheBlock * ops::kCacheBlock;
  if (cache_.has_states()) {
    if (all && length > 0) length = cache_.truncate(length);
    // Only where it was meant to: a state is as large as many pages.
    if (length != cache_.length() || length % ops::kCacheBlock != 0) return;
    if (!all && snapshot_after(length - 1) != length) return;
  }
  if (length > 0) tree.insert(key_, std::span(all_).first(static_cast<size_t>(length)), cache_, routes_);
}

bool Sequence::wants_all_logits() const {
  if (embeds()) return false;
  const auto next = static_cast<size_t>(cache_.length()) + 1;  // the token that the first row would speak of
  if (next >= all_.size()) return false;
  if (request().prompt_logprobs >= 0 && next < request().prompt.size()) return true;
  return request().logprobs >= 0 && told_ < all_.size() && std::ssize(pending()) <= kLongestPiece;
}

int64_t Sequence::snapshot_after(int64_t position) const {
  const auto page = [](int64_t at) { return at / ops::kCacheBlock * ops::kCacheBlock; };
  const int64_t interval = rules_.engine.cache().state.interval;
  int64_t next = (position / interval + 1) * interval;
  const auto consider = [&](int64_t at) {
    if (page(at) > position) next = std::min(next, page(at));
  };
  // Before the prompt's last token, where the same prompt, or a longer one, can be gone on with.
  consider(std::ssize(request().prompt) - 1);
  for (const int64_t boundary : request().boundaries) consider(boundary);
  return next;
}

int64_t Sequence::piece(int64_t wanted) const {
  const int64_t left = std::ssize(pending()), at = cache_.length();
  if (rules_.not_causal) {
    const int64_t step = rules_.engine.step_tokens();
    return std::min(left, step - at % step);
  }
  int64_t count = std::min(wanted, left);
  if (wants_all_logits()) count = std::min(count, kLongestPiece);
  if (cache_.has_states() && reading()) count = std::min(count, snapshot_after(at) - at);
  // Whole pages, where it is not the end: what lies in one can be shared.
  const int64_t whole = (at + count) / ops::kCacheBlock * ops::kCacheBlock - at;
  return count < left && whole > 0 ? whole : count;
}

int64_t Sequence::draft(int64_t rows, int64_t sure) {
  tried_.clear();
  const int64_t size = std::ssize(all_), at = cache_.length();
  if (!speculator_ || request().constraint || request().tells_routes || reading() || std::ssize(pending()) != 1 ||
      told_ != all_.size())
    return 0;
  int64_t room = std::min(ticket_->limit - size - 1, speculator_->most());
  if (request().max_tokens >= 0) room = std::min(room, request().max_tokens - generated_ - 1);
  // States are copied where pages end.
  if (cache_.has_states()) room = std::min(room, ops::kCacheBlock - at % ops::kCacheBlock - 1);
  // Where keys depend on how long a sequence has become, tokens on both sides of the border are not verified together.
  if (room < 1 || !rules_.engine.model().decoder->cache_holds(size, size + room)) return 0;
  try {
    const std::vector<TokenId> drafted = speculator_->draft(all_, room, sampler_, rows, sure);
    if (drafted.empty()) return 0;
    cache_.make_room(1 + std::ssize(drafted));
    cache_.try_rows(1 + std::ssize(drafted));
    tried_ = {all_.back()};
    tried_.insert(tried_.end(), drafted.begin(), drafted.end());
    return std::ssize(drafted);
  } catch (const base::Error& error) {
    if (error.kind() != base::ErrorKind::out_of_memory) throw;
    return 0;  // without a draft there is room
  }
}

models::SequenceStep Sequence::begin_step(int64_t count, const std::function<bool(int64_t)>* leaves) {
  count_ = tried_.empty() ? count : std::ssize(tried_);
  if (rules_.keep_routes) {
    const auto pages = static_cast<size_t>((cache_.length() + count_ + ops::kCacheBlock - 1) / ops::kCacheBlock);
    routes_.resize(std::max(routes_.size(), pages));
    for (size_t page = static_cast<size_t>(cache_.length() / ops::kCacheBlock); page < pages; ++page)
      if (!routes_[page])
        routes_[page] = std::make_shared<runtime::RoutePage>(
            static_cast<size_t>(ops::kCacheBlock * rules_.routes.position()), kNoExpert);
  }
  const bool to_the_end = count_ >= std::ssize(pending());
  const bool all = !tried_.empty() || wants_all_logits() || request().pooling == Request::Pooling::mean;
  const Logits logits = all ? Logits::all : to_the_end ? Logits::last : Logits::none;
  rows_ = logits == Logits::all ? count_ : logits == Logits::last ? 1 : 0;
  const int64_t width = rules_.engine.spec().width;
  normed_.resize(speculator_ && speculator_->sees() ? static_cast<size_t>(count_ * width) : 0);
  return {.ids = tried_.empty() ? pending().first(static_cast<size_t>(count_)) : std::span<const TokenId>(tried_),
          .state = &cache_,
          .logits = logits,
          .random_key = request().sampler.seed,
          .length = std::ssize(all_),
          .model_weights = request().model_weights,
          .normed = {normed_.data(), normed_.empty() ? 0 : count_, width},
          .routers = request().routers.get(),
          .leaves = leaves};
}

std::optional<MaskWorker::Job> Sequence::mask_job() {
  if (!request().constraint || constraint_done_ || rows_ == 0 || count_ < std::ssize(pending()) ||
      request().max_tokens == 0)
    return {};
  return MaskWorker::Job{request().constraint.get(), &mask_};
}

TokenId Sequence::choose(std::span<const float> logits) {
  if (!request().constraint) return draw(logits);
  if (mask_.error) std::rethrow_exception(mask_.error);
  if (!mask_.restricted) return draw(logits);
  masked_.assign(logits.begin(), logits.end());
  int64_t allowed = 0;
  for (size_t word = 0; word < mask_.bits.size(); ++word) {
    const uint32_t bits = mask_.bits[word];
    const size_t end = std::min(masked_.size(), word * 32 + 32);
    for (size_t id = word * 32; id < end; ++id)
      if (bits >> (id % 32) & 1)
        ++allowed;
      else
        masked_[id] = -std::numeric_limits<float>::infinity();
  }
  if (allowed == 0)
    base::fail(base::ErrorKind::bad_input, "constraint",
               "no token of the vocabulary can follow: the grammar and the "
               "tokenizer do not go together");
  return draw(masked_);
}

TokenId Sequence::draw(std::span<const float> logits) {
  if (request().sampled_logprobs && request().logprobs >= 0) {
    runtime::Sampler same = sampler_;  // XTC takes a random number to tell
    drawn_from_ = same.distribution(logits, all_);
  }
  return sampler_.sample(logits, all_);
}

Logprobs Sequence::logprobs_of_chosen(std::span<const float> row) {
  return request().sampled_logprobs ? logprobs(std::move(drawn_from_), *chosen_, request().logprobs)
                                    : logprobs(row, *chosen_, request().logprobs);
}

// In the order of positions, whatever the pieces are.
void Sequence::pool(tensor::Matrix states) {
  pooled_.resize(static_cast<size_t>(rules_.engine.spec().width));
  for (int64_t r = 0; r < states.rows; ++r)
    for (size_t d = 0; d < pooled_.size(); ++d) pooled_[d] += states.row(r)[d];
  if (cache_.length() < std::ssize(request().prompt)) return;
  if (request().pooling == Request::Pooling::mean)
    for (double& value : pooled_) value /= static_cast<double>(request().prompt.size());
  if (!std::all_of(pooled_.begin(), pooled_.end(), [](double value) { return std::isfinite(value); }))
    base::fail(base::ErrorKind::bad_input, "input", "gives hidden states that are not numbers");
}

void Sequence::weigh(tensor::Matrix logits, tensor::ConstMatrix model_weights) noexcept {
  try {
    if (embeds()) return pool(logits);
    const auto row = [&](int64_t r) { return std::span<const float>(logits.row(r), static_cast<size_t>(logits.cols)); };
    chosen_.reset();
    row_logprobs_.assign(static_cast<size_t>(rows_), {});
    const auto first = static_cast<size_t>(cache_.length() - rows_) + 1;  // the token that row 0 speaks of
    for (int64_t r = 0; r < rows_; ++r) {
      const size_t at = first + static_cast<size_t>(r);
      if (at >= all_.size()) break;
      const int64_t wanted = at < request().prompt.size() ? request().prompt_logprobs : request().logprobs;
      if (wanted >= 0) row_logprobs_[static_cast<size_t>(r)] = logprobs(row(r), all_[at], wanted);
    }
    if (rows_ == 0 || cache_.length() < std::ssize(all_) || request().max_tokens == 0 || constraint_done_) return;
    logits_ = logits;
    const int64_t last = tried_.empty() ? rows_ - 1 : 0;
    const std::span<const float> next = row(last);
    if (request().tells_routes && model_weights.cols > 0)
      chosen_weights_.assign(model_weights.row(last), model_weights.row(last) + model_weights.cols);
    chosen_ = choose(next);
    if (request().logprobs >= 0) chosen_logprobs_ = logprobs_of_chosen(next);
  } catch (...) {
    error_ = std::current_exception();
  }
}

void Sequence::deliver_drafted(std::vector<double>& gaps) {
  const int64_t before = cache_.length() - rows_;
  int64_t sure = 1;
  try {
    for (;;) {
      const TokenId id = *std::exchange(chosen_, {});
      all_.push_back(id), ++told_;
      put(id, chosen_logprobs_, false, gaps);
      if (ended_ || sure == rows_ || tried_[static_cast<size_t>(sure)] != id) break;
      const std::span<const float> row(logits_.row(sure++), static_cast<size_t>(logits_.cols));
      chosen_ = draw(row);
      if (request().logprobs >= 0) chosen_logprobs_ = logprobs_of_chosen(row);
    }
  } catch (...) {
    cache_.settle(before + sure);
    tried_.clear();
    throw;
  }
  cache_.settle(before + sure);
  speculator_->verified(rows_ - 1, sure - 1);
  ticket_->evaluated = cache_.length();
  tried_.clear();
}

void Sequence::deliver(std::vector<double>& gaps, const StepReads& reads) {
  const int64_t before = cache_.length() - count_;
  if (error_) {
    if (!std::exchange(tried_, {}).empty()) cache_.settle(before + 1);
    return fail(std::exchange(error_, nullptr));
  }
  if (!tried_.empty()) {
    written_for_ = std::ssize(all_);
    deliver_drafted(gaps);
    if (cache_.has_states() && cache_.length() % ops::kCacheBlock == 0) cache_.remember();
  } else {
    tell_routes(reads);
    deliver_sure(gaps);
  }
  if (!normed_.empty() && !ended_)
    speculator_->see(all_, before, {normed_.data(), cache_.length() - before, rules_.engine.spec().width});
}

void Sequence::deliver_sure(std::vector<double>& gaps) {
  written_for_ = std::ssize(all_);
  ticket_->evaluated = cache_.length();
  ticket_->remaining = std::max<int64_t>(std::ssize(request().prompt) - cache_.length(), 0);
  if (cache_.has_states() && !reading() && cache_.length() % ops::kCacheBlock == 0) cache_.remember();
  const int64_t first = cache_.length() - rows_ + 1;
  if (request().prompt_logprobs >= 0) {
    for (int64_t r = 0; r < rows_ && first + r < std::ssize(request().prompt); ++r) {
      if (first + r != std::ssize(scored_.tokens) + 1) continue;  // known from a step that was taken again
      Logprobs& row = row_logprobs_[static_cast<size_t>(r)];
      scored_.tokens.push_back({all_[static_cast<size_t>(first + r)], row.of_token});
      scored_.top.push_back(std::move(row.top));
    }
  }
  if (request().prompt_logprobs >= 0 && !scored_told_ &&
      std::ssize(scored_.tokens) + 1 == std::ssize(request().prompt)) {
    scored_told_ = true;
    ticket_->send(PromptScored(scored_));
  }
  if (request().max_tokens == 0) {
    if (cache_.length() >= std::ssize(request().prompt)) end(FinishReason::max_tokens);
    return;
  }
  // Tokens that were forced come out once what they follow has been evaluated, so that their logits are there.
  while (!ended_ && told_ < all_.size() && static_cast<int64_t>(told_) <= cache_.length()) {
    const int64_t r = static_cast<int64_t>(told_) - first;
    static const Logprobs kNone;
    put(all_[told_++], r >= 0 && r < rows_ ? row_logprobs_[static_cast<size_t>(r)] : kNone, true, gaps);
  }
  if (!ended_ && constraint_done_ && told_ == all_.size()) return end(FinishReason::end_token);
  if (ended_ || !chosen_) return;
  const TokenId id = *std::exchange(chosen_, {});
  all_.push_back(id), ++told_;
  put(id, chosen_logprobs_, false, gaps);
  if (ended_ || !request().constraint) return;
  try {
    request().constraint->accept(id);
    if (!request().constraint->finished()) return extend_by_force();
    end(FinishReason::end_token);
  } catch (...) {
    fail(std::current_exception());
  }
}

void Sequence::tell_routes(const StepReads& reads) {
  if (!request().tells_routes || !rules_.keep_routes || routes_told_ >= cache_.length()) return;
  RoutesKnown routes = known(rules_.routes, routes_, routes_told_, cache_.length());
  routes.disk_bytes = reads.disk_bytes, routes.step_tokens = reads.tokens;
  ticket_->send(std::move(routes));
  routes_told_ = cache_.length();
}

void Sequence::extend_by_force() {
  const int64_t room = ticket_->limit - std::ssize(all_);
  int64_t left = request().max_tokens < 0 ? room : std::min(room, request().max_tokens - generated_);
  for (const TokenId id : request().constraint->forced()) {
    if (left-- <= 0) break;
    rules_.engine.check_ids({&id, 1});
    all_.push_back(id);
    request().constraint->accept(id);
  }
  constraint_done_ = request().constraint->finished();
}

void Sequence::put(TokenId id, const Logprobs& logprobs, bool forced, std::vector<double>& gaps) {
  if (generated_++ == 0) {
    prompt_seconds_ = begun_.seconds();
    first_token_seconds_ = ticket_->since.seconds();
    ticket_->state = RequestState::decoding;
  } else {
    const double gap = last_token_.seconds();
    gaps.push_back(gap);
    decode_seconds_ += gap;
    longest_gap_ = std::max(longest_gap_, gap);
  }
  last_token_.restart();
  ticket_->generated = generated_;

  TokenChosen token{.id = id, .text = {}, .logprob = logprobs.of_token, .top = logprobs.top, .forced = forced};
  if (!forced) token.model_weights = std::exchange(chosen_weights_, {});
  bool ends = false;
  if (!request().ignore_end && rules_.engine.model().tokenizer) {
    const std::vector<TokenId>& end_tokens = rules_.engine.tokenizer().end_tokens();
    ends = std::find(end_tokens.begin(), end_tokens.end(), id) != end_tokens.end();
  }
  if (!ends && decoder_) token.text = stops_.push(decoder_->push(id));
  ticket_->send(std::move(token));
  if (ends) return end(FinishReason::end_token);
  if (stops_.stopped()) return end(FinishReason::stop_string);
  if (generated_ == request().max_tokens) return end(FinishReason::max_tokens);
  if (static_cast<int64_t>(told_) >= ticket_->limit) return end(FinishReason::context_full);
}

void Sequence::tell_progress(double rate) {
  const int64_t total = std::ssize(request().prompt), done = std::min(cache_.length(), total);
  ticket_->send(PromptProgress{.done = done,
                               .cached = cached_,
                               .total = total,
                               .seconds = done == cached_ ? 0 : begun_.seconds(),
                               .remaining_seconds = rate > 0 ? static_cast<double>(total - done) / rate : 0});
}

Usage Sequence::usage() const {
  return {.prompt_tokens = std::ssize(request().prompt), .cached_tokens = cached_, .completion_tokens = generated_};
}

void Sequence::end(FinishReason reason) {
  if (std::exchange(ended_, true)) return;
  Finished finished{.reason = reason, .usage = usage(), .cache_miss = miss_};
  if (decoder_ && reason != FinishReason::stop_string) {
    finished.text = stops_.push(decoder_->finish());
    finished.text += stops_.finish();
    if (stops_.stopped() && reason != FinishReason::cancelled) finished.reason = FinishReason::stop_string;
  }
  finished.stop_index = stops_.which();
  finished.timings = {.queued_seconds = queued_seconds_,
                      .prompt_seconds = prompt_seconds_,
                      .first_token_seconds = first_token_seconds_,
                      .decode_seconds = decode_seconds_,
                      .longest_gap_seconds = longest_gap_};
  // Only as far as tokens were put out: a piece that was forced may have been evaluated beyond them.
  const int64_t positions =
      std::min(cache_.length(), std::max<int64_t>(static_cast<int64_t>(told_) - 1, std::ssize(request().prompt)));
  if (request().routed_experts && rules_.keep_routes)
    finished.routed_experts = gather(rules_.routes, routes_, positions);
  if (embeds() && reason == FinishReason::max_tokens) finished.embedding = std::move(pooled_);
  how_ = {finished.reason, finished.usage, finished.timings};
  ticket_->ended = true;
  ticket_->send(std::move(finished));
}

void Sequence::fail(const std::exception_ptr& error) {
  if (std::exchange(ended_, true)) return;
  how_.usage = usage();
  ticket_->ended = true;
  send_failure(*ticket_, error, how_.usage);
}

}  // namespace coterie::serve
