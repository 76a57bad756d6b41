#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "runtime/engine.h"
#include "runtime/speculation/drafter.h"
#include "runtime/speculation/step_seconds.h"

namespace coterie::runtime {

/// What came of the drafts of a text.
struct SpeculationStatistics {
  int64_t steps = 0;     // that verified a draft
  int64_t drafted = 0;   // tokens that they verified
  int64_t accepted = 0;  // of those, that the model chose itself
  double seconds = 0;    // that drafting took

  double acceptance() const { return drafted > 0 ? static_cast<double>(accepted) / static_cast<double>(drafted) : 0; }
};

/// Throws unsupported, with the reason, for a model whose text would depend on how many tokens a step evaluates:
/// routers that look at tokens to come, a capacity, dynamic rope scaling.
void require_speculable(const models::Decoder& decoder);

/// Drafts for one text, and decides for how many tokens it is worth it: by how many of the last ones were accepted and
/// what steps of so many rows cost. It cannot change what is chosen, only when.
class Speculator {
 public:
  /// Drafts of at most `most` tokens. `costs` are those of all sequences of the engine and outlive it, as does what the
  /// drafter refers to.
  Speculator(std::unique_ptr<Drafter> drafter, int64_t most, StepSeconds& costs);

  /// At most `room` tokens to verify after `tokens`, perhaps none. `rows` are in the step already, and bring `sure`
  /// tokens.
  std::vector<TokenId> draft(std::span<const TokenId> tokens, int64_t room, const Sampler& sampler, int64_t rows,
                             int64_t sure);
  /// Of the last draft so many tokens were verified and so many of them accepted.
  void verified(int64_t verified, int64_t accepted);
  /// Whether it wants to see() what the model computes, and that (Drafter::see).
  bool sees() const { return drafter_->sees(); }
  void see(std::span<const TokenId> tokens, int64_t first, tensor::ConstMatrix rows) {
    try {
      drafter_->see(tokens, first, rows);
    } catch (const base::Error& error) {
      // A drafter without room for it drafts less well, and nobody's text suffers.
      if (error.kind() != base::ErrorKind::out_of_memory) throw;
    }
  }
  /// To be called where another answer begins, as in a conversation: drafts that did not pay in the last are tried
  /// once.
  void begin_answer() { begins_ = true, lost_ = elapsed_ = 0; }
  /// The same draft length whatever it costs, for tests and measurements; 0: by costs again.
  void always(int64_t length) { always_ = length; }

  int64_t most() const { return most_; }
  StepSeconds& costs() { return costs_; }
  const SpeculationStatistics& statistics() const { return statistics_; }
  /// Whether drafts of some kind are made at present.
  bool on() const;

 private:
  /// Of drafts of one trust.
  struct Trust {
    double accepted = 1, trials = 2;  // of tokens, older ones counting less
    int64_t passed_over = 0;          // drafts that would not have paid since the last that was tried
    int64_t patience = 64;            // of them, before one is tried nevertheless
    bool pays = true;

    double rate() const { return accepted / trials; }
  };
  int64_t best_length(const Trust& trust, int64_t room, int64_t rows, int64_t sure) const;

  std::unique_ptr<Drafter> drafter_;
  int64_t most_;
  StepSeconds& costs_;
  std::array<Trust, Drafter::kTrusts> trusts_;
  double draft_seconds_ = 0;  // a token, where drafting is not free
  int64_t last_trust_ = 0, always_ = 0;
  SpeculationStatistics statistics_;
  // What a step without a draft costs is measured again after so many steps with one: the first were slow, since
  // weights came in and were repacked, and drafts would look as if they paid beside them.
  int64_t with_drafts_ = 0, plain_after_ = kFirstPlain;
  static constexpr int64_t kFirstPlain = 4, kLastPlain = 64;

  // Of a drafter that costs time. What it reads of a text before its first draft, and after a while without drafts,
  // does not count as a draft's cost, so that a try is of two steps. A try is made at the beginning of an answer, and
  // again when all that drafts have lost, with what a try may lose, is a small part of the answer's time.
  bool may_try(int64_t size, int64_t rows) const;
  bool behind_ = true;        // it has not read the last tokens
  int64_t read_ = 0;          // tokens of the text that it has read
  double read_seconds_ = 0;   // a token, of those it reads when it is behind
  bool begins_ = true;        // an answer, of which no draft was made yet
  int64_t trying_ = 0;        // steps of a try that are left
  double elapsed_ = 0;        // seconds that steps without drafts would have taken
  double lost_ = 0;           // seconds that drafts cost more than they brought
  double draft_cost_ = 0;     // of the last draft
  int64_t drafted_over_ = 0;  // rows of the step that it was added to
};

}  // namespace coterie::runtime
