#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/error.h"
#include "layers/moe/router_hook.h"
#include "runtime/sampler.h"
#include "text/tokenizer.h"

// What goes into the scheduler and what comes out of it, as plain data: nothing here knows HTTP or JSON.
namespace coterie::serve {

using text::TokenId;
using RequestId = uint64_t;

/// What a grammar lets through, token by token. The scheduler calls it from one thread at a time, not always the same.
/// What it throws ends the request with that error (RequestFailed): an answer never goes on unconstrained.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  /// The tokens that may come next: bit id % 32 of bits[id / 32] is set for those and clear for others; bits has
  /// ceil(V / 32) words. End tokens are among them where the text may end. False: there is no restriction now, and bits
  /// were not written (a tool's grammar before its call begins). It is called while the step before it still runs.
  virtual bool mask(std::span<uint32_t> bits) = 0;
  /// `id` has come, chosen or forced. End tokens are not announced.
  virtual void accept(TokenId id) = 0;
  /// The tokens that alone can come next, in order; may be none. They are taken as they are, in one piece, and each is
  /// accept()ed then.
  virtual std::vector<TokenId> forced() = 0;
  /// Whether nothing may follow any more: the answer ends as by an end token.
  virtual bool finished() = 0;
};

struct Request {
  std::vector<TokenId> prompt;
  runtime::SamplerOptions sampler;  // with seed and logit_bias
  int64_t max_tokens = 256;         // -1: until something else ends it
  std::vector<std::string> stop;    // the text ends before any of these
  bool ignore_end = false;          // go on past the model's end tokens
  // False where special tokens belong to the text (the marks of tool calls and of reasoning are special in some
  // models).
  bool skip_special = true;
  // Logarithms of probabilities, of the model's own distribution (before bias, penalties, temperature and filters): of
  // each chosen token and of so many of the most probable. -1: none; 0: the chosen token's alone.
  int64_t logprobs = -1;
  // The logprobs are of the distribution that the token was drawn from instead, after all of that; tokens that could
  // not be drawn are not among the most probable.
  bool sampled_logprobs = false;
  // The same of the prompt's tokens from the second on, in PromptScored. It bypasses the prefix cache.
  int64_t prompt_logprobs = -1;
  // Nothing is answered: the hidden states of the prompt's tokens after the final norm come to one vector,
  // Finished::embedding, their mean or that of the last token. With max_tokens 0. It bypasses the prefix cache.
  enum class Pooling { none, mean, last } pooling = Pooling::none;
  bool routed_experts = false;             // in Finished::routed_experts
  bool tells_routes = false;               // RoutesKnown comes as positions are evaluated, and model_weights
  bool use_cache = true;                   // whether what is cached may be used; what is computed is cached in any case
  std::string cache_salt;                  // requests share prefixes only with those of the same salt
  int64_t priority = 0;                    // higher goes first; waiting raises it by one each ageing_seconds
  std::string client;                      // whose it is: clients take turns
  std::vector<int64_t> boundaries = {};    // positions of the prompt that other prompts may share all before of (ends
                                           // of messages): where models with recurrent states keep a copy of them
  std::vector<double> model_weights = {};  // of an ensemble's models, where a prompt has decided them
  std::shared_ptr<TokenConstraint> constraint = {};
  // Changes what routers decide for this request alone. `routers_key` says all that it does: requests of one key share
  // what they have in common; without a key nothing is shared.
  std::shared_ptr<const layers::RouterHook> routers = {};
  std::string routers_key = {};
  bool routers_draw = false;  // they draw by the seed
};

// --- Events, in the order in which they come -------------------------------------------------------------------------

/// It waits for its turn. Comes on submission and when its place changes.
struct Queued {
  int64_t ahead = 0;        // requests before it
  double wait_seconds = 0;  // estimated, until its prompt begins; 0 before anything has been measured
};
/// Tokens of its prompt that have been read. Comes after each step that read some of them, and when it begins.
struct PromptProgress {
  int64_t done = 0, cached = 0, total = 0;
  double seconds = 0;            // since it began
  double remaining_seconds = 0;  // estimated
};
struct TokenLogprob {
  TokenId id = 0;
  float logprob = 0;
};
/// What routers did with positions that have been evaluated, or that were found in the cache, with
/// Request::tells_routes. It comes before what else its step brings (the token, the progress); each position comes
/// once, or again where a sequence had to be evaluated anew. A position's experts are those that its token was read
/// with, so an answer's last token, which nothing was computed of, has none.
struct RoutesKnown {
  int64_t first = 0, positions = 0;           // first … first + positions - 1
  int64_t layers = 0, experts_per_token = 0;  // those with routers, in order; K: the largest of all layers
  std::vector<uint16_t> experts;              // [positions, layers, K] best first; 65535: none
  std::vector<uint16_t> weights;              // the same, f16: what the outputs are multiplied by
  std::vector<uint16_t> entropy;              // [positions, layers] f16: of the router's scores, in nats
  // Where experts are read from the disk: bytes that the step which ended with these positions read, and the tokens of
  // all sequences that took part in it. -1: all experts are in memory.
  int64_t disk_bytes = -1, step_tokens = 0;
};
/// Of a prompt, with Request::prompt_logprobs: for each token from the second on, [prompt - 1].
struct PromptScored {
  std::vector<TokenLogprob> tokens;
  std::vector<std::vector<TokenLogprob>> top;  // best first
};
/// A token of the answer. An end token comes too, with no text.
struct TokenChosen {
  TokenId id = 0;
  std::string text;   // whole UTF-8 that became certain with it; may be empty, or end what earlier tokens began
  float logprob = 0;  // with Request::logprobs >= 0
  std::vector<TokenLogprob> top;  // best first
  bool forced = false;            // the constraint left no choice
  // [N] with Request::tells_routes: what the gate of an ensemble gave each model for the probabilities that it was
  // chosen from. Empty for one model, and for a token that no model was asked for.
  std::vector<float> model_weights = {};
};

enum class FinishReason { end_token, stop_string, max_tokens, context_full, cancelled };
/// "end token", "stop string", "token limit", "context full", "cancelled".
std::string_view name(FinishReason reason);

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of the prompt, not computed for this request
  int64_t completion_tokens = 0;  // end token included
};
struct Timings {
  double queued_seconds = 0;       // from submission until its prompt began
  double prompt_seconds = 0;       // from then until its first token was chosen
  double first_token_seconds = 0;  // from submission; 0 when there was none
  double decode_seconds = 0;       // from the first token until the last
  double longest_gap_seconds = 0;  // between two tokens
};
/// Experts of every evaluated position, best first: [positions, layers, K], of the layers with routers in order.
/// Positions are the prompt's and the answer's but the last token's, which nothing was computed of. 65535: none, where
/// fewer than K were chosen. Empty for models without routers.
struct RoutedExperts {
  int64_t positions = 0, layers = 0, experts_per_token = 0;  // K: the largest of all layers
  std::vector<uint16_t> experts;
};
/// The last event of a request that ended.
struct Finished {
  FinishReason reason = FinishReason::end_token;
  std::string text = {};    // what was held back, as it might have become a stop string
  int64_t stop_index = -1;  // of Request::stop, by which it ended
  Usage usage = {};
  Timings timings = {};
  // Why not all of the prompt that could have been was found in the cache, for people; empty when all was.
  std::string cache_miss = {};
  RoutedExperts routed_experts = {};
  std::vector<double> embedding = {};  // [D], with Request::pooling
};
/// The last event of a request that failed.
struct RequestFailed {
  base::ErrorKind kind = base::ErrorKind::internal;
  std::string where = {}, message = {}, hint = {};
  Usage usage = {};
};
using Event = std::variant<Queued, PromptProgress, RoutesKnown, PromptScored, TokenChosen, Finished, RequestFailed>;

/// Whoever waits for a request's events. It is called from the scheduler's thread, the first Queued from within
/// submit(): it must not block, throw or call the scheduler, but pass the event on. The last event of each request is
/// Finished or RequestFailed, whatever happens, cancellation included.
class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_event(RequestId id, Event&& event) noexcept = 0;
};

/// Thrown by Scheduler::submit where a request is not taken now and may be later.
class Refused : public base::Error {
 public:
  enum class Reason { queue_full, wait_too_long, shutting_down };
  Refused(Reason reason, double retry_after_seconds, std::string message);
  Reason reason() const { return reason_; }
  double retry_after_seconds() const { return retry_after_seconds_; }

 private:
  Reason reason_;
  double retry_after_seconds_;
};

}  // namespace coterie::serve
