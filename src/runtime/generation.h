#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"
#include "runtime/speculation/speculator.h"
#include "runtime/stop_filter.h"
#include "runtime/token_cache.h"
#include "text/constraint.h"

namespace coterie::runtime {

struct GenerationOptions {
  SamplerOptions sampler;
  int64_t max_tokens = -1;  // -1 = until something else ends it
  std::vector<std::string> stop;
  std::vector<double> model_weights;  // of an ensemble's models, where a prompt has decided them (Engines::choose)
  const layers::RouterHook* routers = nullptr;  // changes what routers decide for this sequence (moe/router_hook.h)
  bool ignore_end = false;                      // go on past the model's end tokens (benchmarks)
  // Drafts tokens that a step verifies beside the one that is sure; null: none. What is generated is the same to the
  // bit. Of this sequence alone, and outlives it.
  Speculator* speculator = nullptr;
  // What the text has to be; it is used up by this generation. Where it leaves no choice the tokens are taken at once,
  // and where nothing can follow the generation ends as by an end token.
  std::optional<text::Constraint> constraint = {};
  std::function<void(std::string_view text)> on_text;  // whole UTF-8, as soon as it is certain
  std::function<void(TokenId id)> on_token;
  // Either is set from any thread to end it: looked at before each step and, within one, before each layer.
  const std::atomic<bool>*interrupt = nullptr, *cancel = nullptr;
};

enum class Finish { not_yet, end_token, stop_string, max_tokens, context_full, interrupted, failed };
std::string_view name(Finish finish);  // "end token", …

struct GenerationStatistics {
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;     // of the prompt, found in the cache
  int64_t evaluated_tokens = 0;  // that went through the model, prompt and answer
  int64_t generated_tokens = 0;
  double prompt_seconds = 0;  // from the start until the first token was chosen
  double decode_seconds = 0;  // from then until the last

  /// Evaluated prompt tokens a second, and tokens after the first a second; 0 when there were none.
  double prompt_tokens_per_second() const;
  double decode_tokens_per_second() const;
};

/// One sequence being continued: what it holds and still has to evaluate, how its next token is chosen and when it
/// ends. step() moves it on; several move on together, and each joins, leaves, fails and is interrupted by itself.
class Generation {
 public:
  /// Takes `tokens`, of which it keeps the longest beginning it has in common with the prompt. Throws bad_input for an
  /// empty prompt, ids outside of the vocabulary and a prompt that leaves no room in the context; out_of_memory when
  /// the cache of prompt and max_tokens cannot fit; `tokens` are still the caller's then. What the options point to
  /// must outlive it.
  Generation(Engine& engine, TokenCache&& tokens, std::span<const TokenId> prompt, GenerationOptions options);
  /// With a cache of its own.
  Generation(Engine& engine, std::span<const TokenId> prompt, GenerationOptions options);

  /// Another answer to the same prompt. It shares the pages of what has been evaluated of the prompt, and has at most
  /// the prompt's last token to evaluate again once the prompt has been read. Throws as the constructor does.
  Generation fork(GenerationOptions options) const;

  /// Ends it by an error, for whoever looks on from outside and cannot go on.
  void fail(std::exception_ptr error) noexcept;

  /// What has been evaluated so far.
  const TokenCache& tokens() const { return tokens_; }
  /// Gives it away, which ends the sequence; it can be asked for its text, ids and statistics alone from then on.
  TokenCache release() noexcept;

  bool finished() const { return finish_ != Finish::not_yet; }
  Finish finish() const { return finish_; }
  /// What ended it, when finish() is failed: thrown by a callback or the constraint, or because its cache could not
  /// grow. Else null.
  std::exception_ptr error() const { return error_; }
  /// Text so far, as on_text was given it, and ids so far, an end token included.
  const std::string& text() const { return text_; }
  std::span<const TokenId> generated() const { return std::span(all_).subspan(prompt_size_); }
  const GenerationStatistics& statistics() const { return statistics_; }
  /// Whether the text is what the constraint asks for; true without one. It is not where the generation was cut off.
  bool fits_constraint();

 private:
  friend class GenerationStep;

  void check() const;
  void begin();
  bool can_be_interrupted() const { return options_.interrupt || options_.cancel; }
  bool interrupted() const {
    return (options_.interrupt && options_.interrupt->load(std::memory_order_relaxed)) ||
           (options_.cancel && options_.cancel->load(std::memory_order_relaxed));
  }
  /// Forgets the cache when its keys are not those of a sequence as long as this one has become.
  void match_cache();
  std::span<const TokenId> pending() const { return std::span(all_).subspan(tokens_.ids.size()); }
  /// Tokens that the next step may evaluate without passing a snapshot of recurrent states.
  size_t until_snapshot() const;
  void evaluated(std::span<const TokenId> ids);
  /// The ids of the next step: the one that is pending and a draft, where there is one. `rows` are in the step.
  std::span<const TokenId> with_draft(int64_t rows);
  /// Where the model's rows of the next step go, for a speculator that sees them: [rows, D], else without rows.
  tensor::Matrix rows_to_see(int64_t rows);
  /// After a step of `ids` from with_draft(), with a row of logits for each: chooses as long as the draft is what is
  /// chosen, and goes back to there.
  void verify(std::span<const TokenId> ids, tensor::Matrix logits);
  void choose(std::span<const float> logits);
  /// Adds a token to the text, and ends where it ends.
  void take(TokenId id);
  void emit(std::string_view text);
  void end(Finish finish);

  Engine& engine_;
  GenerationOptions options_;
  Sampler sampler_;
  StopFilter stops_;
  std::optional<text::StreamDecoder> decoder_;
  std::vector<uint32_t> allowed_;  // [ceil(V / 32)], where there is a constraint
  std::vector<TokenId> all_;       // prompt and answer; the first tokens_.ids.size() are evaluated
  std::vector<TokenId> tried_;     // the pending token and a draft
  std::vector<float> normed_;      // of a step's rows, for a speculator that sees them
  size_t prompt_size_;
  TokenCache tokens_;
  std::string text_;
  Finish finish_ = Finish::not_yet;
  std::exception_ptr error_;
  GenerationStatistics statistics_;
  base::Stopwatch clock_;
};

/// One step of all that are not finished: each that decodes evaluates its one token, those still in their prompt share
/// what is left of engine.step_tokens(), in order; whoever has evaluated all it knows chooses its next token.
///
/// What one sequence's callbacks throw, and memory that its cache alone lacks, ends that sequence (Finish::failed, its
/// error()) and no other. Throws what concerns all of them; they can then be stepped again.
void step(Engine& engine, std::span<Generation* const> generations, layers::Observer* observer = nullptr);

/// The one-sequence use of step(): runs until it has finished. Throws its error().
void run(Engine& engine, Generation& generation, layers::Observer* observer = nullptr);
/// The same, and gives the generation's tokens to `tokens` whatever happens.
void run(Engine& engine, Generation& generation, TokenCache& tokens, layers::Observer* observer = nullptr);

}  // namespace coterie::runtime
