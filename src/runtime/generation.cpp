#include "runtime/generation.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "runtime/not_finite.h"

namespace coterie::runtime {

std::string_view name(Finish finish) {
  switch (finish) {
    case Finish::not_yet: return "not yet";
    case Finish::end_token: return "end token";
    case Finish::stop_string: return "stop string";
    case Finish::max_tokens: return "token limit";
    case Finish::context_full: return "context full";
    case Finish::interrupted: return "interrupted";
    case Finish::failed: return "failed";
  }
  return "unknown";
}

double GenerationStatistics::prompt_tokens_per_second() const {
  return prompt_seconds > 0 ? static_cast<double>(prompt_tokens - reused_tokens) / prompt_seconds : 0;
}
double GenerationStatistics::decode_tokens_per_second() const {
  return decode_seconds > 0 ? static_cast<double>(generated_tokens - 1) / decode_seconds : 0;
}

Generation::Generation(Engine& engine, std::span<const TokenId> prompt, GenerationOptions options)
    : Generation(engine, TokenCache{engine.make_cache(), {}}, prompt, std::move(options)) {}

Generation::Generation(Engine& engine, TokenCache&& tokens, std::span<const TokenId> prompt, GenerationOptions options)
    : engine_(engine),
      options_(std::move(options)),
      sampler_(options_.sampler, engine.spec().vocabulary,
               engine.model().tokenizer ? &*engine.model().tokenizer : nullptr),
      stops_(options_.stop),
      all_(prompt.begin(), prompt.end()),
      prompt_size_(prompt.size()),
      tokens_(std::move(tokens)) {
  try {
    check();
    begin();
  } catch (...) {
    tokens = std::move(tokens_);
    throw;
  }
}

void Generation::check() const {
  const std::span<const TokenId> prompt(all_);
  if (prompt.empty()) base::fail(base::ErrorKind::bad_input, "prompt", "is empty: there is nothing to continue");
  if (options_.max_tokens < -1)
    base::fail(base::ErrorKind::bad_input, "max_tokens", "is {}, expected at least 0, or -1 for no limit",
               options_.max_tokens);
  engine_.check_ids(prompt);
  const int64_t size = std::ssize(prompt), context = engine_.context_size();
  if (size > context || (size == context && options_.max_tokens != 0))
    throw base::Error(base::ErrorKind::bad_input, "prompt",
                      fmt::format("has {} tokens, which leaves no room in a context of {}", size, context),
                      context < engine_.spec().context
                          ? fmt::format("`context` may be up to {}", engine_.spec().context)
                          : "this is as long as the model was made for: shorten the prompt, or stretch its positions "
                            "with `rope.scaling`");
  if (!options_.stop.empty()) (void)engine_.tokenizer();
  if (options_.speculator) {
    require_speculable(*engine_.model().decoder);
    const StateShape& state = engine_.cache().state;
    if (state.floats() > 0)
      base::require_memory(options_.speculator->most() * state.bytes(),
                           "copies of the recurrent states for drafted tokens", "fewer drafted tokens need less");
  }
  if (options_.constraint && options_.ignore_end)
    base::fail(base::ErrorKind::bad_input, "ignore_end", "contradicts a constraint, which says where the text ends");
}

void Generation::begin() {
  const std::span<const TokenId> prompt(all_);
  const int64_t size = std::ssize(prompt);
  // The last token is evaluated in any case: its logits are what is continued.
  statistics_.reused_tokens = tokens_.keep_prefix_for(*engine_.model().decoder, prompt.first(prompt.size() - 1), size);
  statistics_.prompt_tokens = size;
  const int64_t answer = options_.max_tokens < 0 ? 0 : std::min(options_.max_tokens, engine_.context_size() - size);
  engine_.require_cache(size + answer - statistics_.reused_tokens);

  if (engine_.model().tokenizer) {
    decoder_.emplace(engine_.tokenizer());
    decoder_->prime(prompt);
  }
  if (options_.constraint) allowed_.resize(static_cast<size_t>(engine_.spec().vocabulary + 31) / 32);
  if (options_.max_tokens == 0) end(Finish::max_tokens);
}

Generation Generation::fork(GenerationOptions options) const {
  return Generation(engine_, tokens_.fork(), std::span(all_).first(prompt_size_), std::move(options));
}

TokenCache Generation::release() noexcept {
  if (!finished()) finish_ = Finish::interrupted;
  return std::move(tokens_);
}

bool Generation::fits_constraint() { return !options_.constraint || options_.constraint->complete(); }

size_t Generation::until_snapshot() const {
  const size_t evaluated = tokens_.ids.size();
  size_t most = static_cast<size_t>(tokens_.cache.until_snapshot());
  if (tokens_.cache.has_states() && evaluated + 1 < prompt_size_) most = std::min(most, prompt_size_ - 1 - evaluated);
  return most;
}

void Generation::match_cache() {
  // A step that failed may have taken recurrent states back to a snapshot.
  if (std::ssize(tokens_.ids) > tokens_.cache.length()) tokens_.ids.resize(static_cast<size_t>(tokens_.cache.length()));
  if (!tokens_.ids.empty() &&
      models::starts_anew(*engine_.model().decoder, tokens_.written_for, static_cast<int64_t>(all_.size())))
    tokens_.keep_prefix({});
}

void Generation::evaluated(std::span<const TokenId> ids) {
  tokens_.written_for = static_cast<int64_t>(all_.size());
  statistics_.evaluated_tokens += static_cast<int64_t>(ids.size());
  tokens_.ids.insert(tokens_.ids.end(), ids.begin(), ids.end());
  // Both ends of the prompt's last token: the first is where the same prompt can be answered again, the second where
  // the conversation can go on otherwise.
  if (tokens_.ids.size() + 1 == prompt_size_ || tokens_.ids.size() == prompt_size_) tokens_.cache.remember();
}

std::span<const TokenId> Generation::with_draft(int64_t rows) {
  const auto size = std::ssize(all_);
  int64_t room = std::min(engine_.context_size() - size - 1, tokens_.cache.until_snapshot() - 1);
  if (options_.max_tokens >= 0) room = std::min(room, options_.max_tokens - statistics_.generated_tokens - 1);
  room = std::min(room, options_.speculator->most());
  // Where keys depend on how long a sequence has become, tokens on both sides of the border are not verified together.
  if (room < 1 || !engine_.model().decoder->cache_holds(size, size + room)) return pending();
  try {
    const std::vector<TokenId> draft = options_.speculator->draft(all_, room, sampler_, rows, rows);
    if (draft.empty()) return pending();
    tried_.assign(1, all_.back());
    tried_.insert(tried_.end(), draft.begin(), draft.end());
    tokens_.cache.make_room(std::ssize(tried_));
    tokens_.cache.try_rows(std::ssize(tried_));
  } catch (const base::Error& error) {
    if (error.kind() != base::ErrorKind::out_of_memory) throw;
    return pending();  // without a draft there may be room
  }
  return tried_;
}

tensor::Matrix Generation::rows_to_see(int64_t rows) {
  if (!options_.speculator || !options_.speculator->sees()) return {};
  const int64_t width = engine_.spec().width;
  normed_.resize(static_cast<size_t>(rows * width));
  return {normed_.data(), rows, width};
}

void Generation::verify(std::span<const TokenId> ids, tensor::Matrix logits) {
  const size_t before = tokens_.ids.size();
  size_t sure = 1;  // of ids, that are what was chosen
  const auto settle = [&] {
    tokens_.cache.settle(static_cast<int64_t>(before + sure));
    tokens_.ids.resize(before + sure);
  };
  evaluated(ids);
  try {
    for (;;) {
      choose({logits.row(static_cast<int64_t>(sure) - 1), static_cast<size_t>(logits.cols)});
      if (finished()) break;
      // A constraint may have taken several tokens at once.
      while (sure < ids.size() && before + sure < all_.size() && ids[sure] == all_[before + sure]) ++sure;
      if (before + sure < all_.size()) break;
    }
  } catch (...) {
    settle();
    throw;
  }
  settle();
  options_.speculator->verified(std::ssize(ids) - 1, static_cast<int64_t>(sure) - 1);
}

void Generation::choose(std::span<const float> logits) {
  TokenId id = 0;
  if (options_.constraint) options_.constraint->mask(allowed_);
  try {
    id = sampler_.sample(logits, all_, allowed_);
  } catch (const base::Error& error) {
    if (error.kind() != base::ErrorKind::bad_input) throw;
    const std::string weight = first_not_finite(*engine_.model().source);
    if (weight.empty())
      throw base::Error(error.kind(), engine_.model().name, error.message(),
                        "its weights are finite: a sum overflows; `precision` f32 may have room for it");
    throw base::Error(error.kind(), engine_.model().name, error.message() + ": " + weight,
                      "the file is damaged, or was made from a training that went wrong");
  }
  take(id);
  while (!finished() && options_.constraint) {
    const std::vector<TokenId> forced = options_.constraint->forced();
    if (forced.empty()) break;
    for (const TokenId next : forced)
      if (!finished()) take(next);
  }
}

void Generation::take(TokenId id) {
  all_.push_back(id);
  if (statistics_.generated_tokens++ == 0) {
    statistics_.prompt_seconds = clock_.seconds();
    clock_.restart();
  } else {
    statistics_.decode_seconds = clock_.seconds();
  }
  if (options_.on_token) options_.on_token(id);

  if (!options_.ignore_end && engine_.model().tokenizer) {
    const std::vector<TokenId>& ends = engine_.tokenizer().end_tokens();
    if (std::find(ends.begin(), ends.end(), id) != ends.end()) return end(Finish::end_token);
  }
  if (options_.constraint) options_.constraint->accept(id);
  if (decoder_) emit(stops_.push(decoder_->push(id)));
  if (stops_.stopped()) return end(Finish::stop_string);
  if (options_.constraint && options_.constraint->finished()) return end(Finish::end_token);
  if (statistics_.generated_tokens == options_.max_tokens) return end(Finish::max_tokens);
  if (static_cast<int64_t>(all_.size()) >= engine_.context_size()) return end(Finish::context_full);
}

void Generation::emit(std::string_view text) {
  if (text.empty()) return;
  text_ += text;
  if (options_.on_text) options_.on_text(text);
}

void Generation::end(Finish finish) {
  finish_ = finish;
  if (!decoder_ || finish == Finish::stop_string) return;
  emit(stops_.push(decoder_->finish()));
  emit(stops_.finish());
  if (stops_.stopped()) finish_ = Finish::stop_string;
}

void Generation::fail(std::exception_ptr error) noexcept {
  finish_ = Finish::failed;
  error_ = std::move(error);
}

void run(Engine& engine, Generation& generation, layers::Observer* observer) {
  Generation* const one = &generation;
  while (!generation.finished()) step(engine, {&one, 1}, observer);
  if (generation.error()) std::rethrow_exception(generation.error());
}

void run(Engine& engine, Generation& generation, TokenCache& tokens, layers::Observer* observer) {
  try {
    run(engine, generation, observer);
  } catch (...) {
    tokens = generation.release();
    throw;
  }
  tokens = generation.release();
}

}  // namespace coterie::runtime
