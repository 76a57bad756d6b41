#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "models/decoder.h"
#include "runtime/engine.h"
#include "runtime/prefix_cache.h"
#include "runtime/prefix_key.h"
#include "runtime/sampler.h"
#include "runtime/speculation/speculator.h"
#include "runtime/stop_filter.h"
#include "serve/logprobs.h"
#include "serve/mask_worker.h"
#include "serve/routes.h"
#include "serve/ticket.h"
#include "tensor/view.h"

namespace coterie::serve {

/// What is the same for all sequences of an engine.
struct SequenceRules {
  /// Throws unsupported for a model whose answers depend on what else is in the batch (an expert capacity).
  SequenceRules(runtime::Engine& engine, bool keep_routes);

  runtime::Engine& engine;
  RouteLayout routes;
  bool keep_routes;
  bool not_causal = false;      // routers look at tokens to come: prompts are cut at fixed positions, nothing is shared
  bool random_routers = false;  // they draw by the seed

  /// Whether anything of this request's sequence can be another's.
  bool shares(const Request& request) const;
  /// The key of the tree's root for a sequence of `length` tokens of this request.
  std::string key(const Request& request, int64_t length) const;
};

/// A request that has been admitted: its tokens, its cache, and how the next token is chosen. What it answers depends
/// on nothing but the request, whatever it is run beside.
class Sequence {
 public:
  /// `speculator` drafts for it; null: nothing does. Throws what the constraint throws.
  Sequence(const SequenceRules& rules, std::shared_ptr<Ticket> ticket,
           std::unique_ptr<runtime::Speculator> speculator = nullptr);

  Ticket& ticket() const { return *ticket_; }
  const Request& request() const { return ticket_->request; }
  bool ended() const { return ended_; }
  struct End {
    std::optional<FinishReason> reason;  // none: it failed
    Usage usage;
    Timings timings;
  };
  /// Once it has ended.
  const End& how() const { return how_; }
  /// Whether what it has to evaluate is a prompt, or as long as one.
  bool reading() const { return generated_ == 0 || std::ssize(pending()) > kLongestPiece; }
  std::span<const TokenId> all() const { return all_; }
  std::span<const TokenId> pending() const { return std::span(all_).subspan(static_cast<size_t>(cache_.length())); }
  const runtime::KvCache& cache() const { return cache_; }
  Routes& routes() { return routes_; }
  /// The key of the root that what it computes belongs under; prefix_key of its request, mostly.
  const std::string& key() const { return key_; }
  bool shares() const { return rules_.shares(request()); }
  /// Pages it may come to need and does not hold yet.
  int64_t pages_to_come() const { return ticket_->pages - std::ssize(cache_.pages()); }

  /// Forgets everything where its keys are not those of a sequence as long as this has become (LongRoPE): before a step
  /// is composed.
  void restart_if_rescaled();
  /// Takes from the tree what has been computed of its tokens by now, perhaps by others.
  void catch_up(runtime::PrefixCache& tree);
  /// Gives the tree what it has computed. At the end of a sequence `all` of it, its answer too.
  void keep(runtime::PrefixCache& tree, bool all = false);

  /// How many of at most `wanted` tokens to evaluate next. Models that are not causal have their own mind.
  int64_t piece(int64_t wanted) const;
  /// Pages for the next `count` tokens. Throws out_of_memory.
  void reserve(int64_t count) { cache_.make_room(count); }
  /// Drafts tokens to be verified in the next step beside the one that it decodes, of which `rows` rows are taken
  /// already and bring `sure` tokens. Returns how many; none under a constraint or where routes are told as they come,
  /// and where there is no room for them.
  int64_t draft(int64_t rows, int64_t sure);
  runtime::Speculator* speculator() const { return speculator_.get(); }
  /// The next `count` tokens, for which there is room, as a part of a step.
  models::SequenceStep begin_step(int64_t count, const std::function<bool(int64_t)>* leaves);
  int64_t rows() const { return rows_; }  // of logits, of the step that was begun; of hidden states, where it embeds
  /// Whether its rows are to be hidden states (PassOptions::hidden), which come to one vector.
  bool embeds() const { return request().pooling != Request::Pooling::none; }
  std::optional<MaskWorker::Job> mask_job();
  /// After the step, when it took part to the end: what can be computed of its rows of logits beside other sequences,
  /// on any thread.
  /// `model_weights`, of the same rows: what the gate of an ensemble gave its models; no columns for one model.
  void weigh(tensor::Matrix logits, tensor::ConstMatrix model_weights) noexcept;
  /// What a step cost that is told of its positions (RoutesKnown).
  struct StepReads {
    int64_t disk_bytes = -1, tokens = 0;
  };
  /// Then, one sequence after another: its tokens come out, and it may end. Seconds between tokens go to `gaps`.
  void deliver(std::vector<double>& gaps, const StepReads& reads);
  /// Tells how far its prompt has been read, where `rate` tokens are read a second.
  void tell_progress(double rate);

  void end(FinishReason reason);
  void fail(const std::exception_ptr& error);

 private:
  // The most forced tokens that count as decoding, and rows whose logits are kept at once.
  static constexpr int64_t kLongestPiece = 32;

  bool wants_all_logits() const;
  /// After a step with a draft: its tokens come out as long as they are what is chosen.
  void deliver_drafted(std::vector<double>& gaps);
  void deliver_sure(std::vector<double>& gaps);
  /// Where the states of a model that has some are given to the tree: the first such place after `position`.
  int64_t snapshot_after(int64_t position) const;
  TokenId choose(std::span<const float> logits);
  Logprobs logprobs_of_chosen(std::span<const float> row);
  TokenId draw(std::span<const float> logits);
  void pool(tensor::Matrix states);
  void tell_routes(const StepReads& reads);
  void put(TokenId id, const Logprobs& logprobs, bool forced, std::vector<double>& gaps);
  void extend_by_force();
  Usage usage() const;

  const SequenceRules& rules_;
  std::shared_ptr<Ticket> ticket_;
  runtime::Sampler sampler_;
  runtime::StopFilter stops_;
  std::optional<text::StreamDecoder> decoder_;
  runtime::KvCache cache_;
  Routes routes_;
  std::string key_;
  std::vector<TokenId> all_;  // prompt, answer, and tokens that are forced to follow
  int64_t routes_told_ = 0;   // positions
  size_t told_;               // of all_: the first of them have been put out, or were the prompt
  int64_t generated_ = 0, cached_ = 0;
  int64_t written_for_ = 0, rows_ = 0, count_ = 0;  // of the last step: length of the sequence, rows of logits, tokens
  bool looked_up_ = false, ended_ = false, scored_told_ = false, constraint_done_ = false;
  std::string miss_;

  std::unique_ptr<runtime::Speculator> speculator_;
  std::vector<TokenId> tried_;  // of the step: the token that is sure and a draft; empty where none was drafted
  std::vector<float> normed_;   // for a speculator that sees the model's rows
  tensor::Matrix logits_;       // of the step, with a draft

  TokenMask mask_;
  std::vector<float> masked_;
  std::vector<Logprobs> row_logprobs_;  // of the step, for tokens that are known: [rows]
  std::optional<TokenId> chosen_;
  Logprobs chosen_logprobs_;
  std::vector<float> chosen_weights_;  // of an ensemble's models
  runtime::Candidates drawn_from_;     // with Request::sampled_logprobs
  std::vector<double> pooled_;         // [D]: the sum of the hidden states, or the last
  std::exception_ptr error_;
  PromptScored scored_;
  End how_;

  base::Stopwatch begun_, last_token_;
  double queued_seconds_, prompt_seconds_ = 0, first_token_seconds_ = 0, decode_seconds_ = 0, longest_gap_ = 0;
};

}  // namespace coterie::serve
