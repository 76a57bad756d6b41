#include "runtime/speculation/speculator.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "layers/moe/routers/kind.h"

namespace coterie::runtime {

namespace {

constexpr double kForget = 0.97;  // what is left of older trials with each new one
constexpr int64_t kMostPatience = 1024;
// A longer draft has to promise this much more tokens a second: costs are not known better.
constexpr double kMargin = 1.01;
// And drafts that cost time so much: what they and their steps take is estimated low by up to a tenth, since estimates
// follow the quickest of many.
constexpr double kMarginOfDear = 1.1;
constexpr double kMostLost = 0.01;  // of the time of a text, before drafts that cost time are tried again
constexpr int64_t kFirstDrafts = 8;
constexpr int64_t kTrySteps = 2, kTried = 2;  // steps of a try, and tokens that each of them drafts
constexpr int64_t kPlainSteps = 3;  // steps without a draft that tell what one costs, before the first with one

}  // namespace

void require_speculable(const models::Decoder& decoder) {
  constexpr std::string_view kOption = "speculate";
  if (models::grows_with_length(decoder))
    throw base::Error(base::ErrorKind::unsupported, std::string(kOption),
                      "the model's positions are rescaled to each length (dynamic rope scaling): tokens that are "
                      "verified together would get other bits than one by one",
                      "`rope.scaling` yarn or linear does not depend on the length");
  for (const models::BlockSpec& block : decoder.spec().blocks) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    if (!moe) continue;
    if (!layers::kind_of(moe->router.selection).causal)
      base::fail(base::ErrorKind::unsupported, kOption,
                 "routing by {} looks at tokens to come: what is drafted would change the experts of what is sure",
                 layers::kind_of(moe->router.selection).name);
    if (moe->router.always.capacity)
      base::fail(base::ErrorKind::unsupported, kOption,
                 "an expert capacity counts the tokens that are evaluated together: drafts would take places");
  }
}

Speculator::Speculator(std::unique_ptr<Drafter> drafter, int64_t most, StepSeconds& costs)
    : drafter_(std::move(drafter)), most_(most), costs_(costs) {
  base::require(most >= 1, "speculator", "drafts of {} tokens", most);
}

bool Speculator::on() const {
  return std::any_of(trusts_.begin(), trusts_.end(), [](const Trust& trust) { return trust.pays; });
}

int64_t Speculator::best_length(const Trust& trust, int64_t room, int64_t rows, int64_t sure) const {
  // Tokens a second of a step with n drafted tokens: a draft's token counts where all before it were right.
  const double rate = trust.rate(), plain = costs_.expected(rows);
  double best = static_cast<double>(sure) / plain, more = 0, chance = 1;
  int64_t length = 0;
  for (int64_t n = 1; n <= std::min(room, most_); ++n) {
    chance *= rate, more += chance;
    const double seconds = costs_.expected(rows + n) + static_cast<double>(n) * draft_seconds_;
    const double speed = (static_cast<double>(sure) + more) / seconds;
    const double margin = length == 0 && !drafter_->is_free() ? kMarginOfDear : kMargin;
    if (speed > best * margin) best = speed, length = n;
  }
  return length;
}

bool Speculator::may_try(int64_t size, int64_t rows) const {
  if (drafter_->is_free() || begins_) return true;
  const double step = costs_.expected(rows + kTried) - costs_.expected(rows) + kTried * draft_seconds_;
  return lost_ + kTrySteps * step + static_cast<double>(size - read_) * read_seconds_ <= kMostLost * elapsed_;
}

std::vector<TokenId> Speculator::draft(std::span<const TokenId> tokens, int64_t room, const Sampler& sampler,
                                       int64_t rows, int64_t sure) {
  room = std::min(room, most_);
  const auto size = std::ssize(tokens);
  if (room < 1) return {};
  if (always_ == 0 && costs_.count(rows) < kPlainSteps) return {};
  elapsed_ += costs_.expected(rows);
  if (always_ == 0 && with_drafts_ >= plain_after_) {
    behind_ = true, with_drafts_ = 0, plain_after_ = std::min(2 * plain_after_, kLastPlain);
    return {};
  }
  const auto length_for = [&](Trust& trust) -> int64_t {
    if (always_ > 0) return std::min(always_, room);
    // The first few tell how good a drafter is; one that was wrong twice may be right mostly.
    if (!drafter_->is_free() && statistics_.drafted < kFirstDrafts) return 1;
    const int64_t length = best_length(trust, room, rows, sure);
    trust.pays = length > 0;
    if (length > 0) {
      trust.passed_over = 0, trust.patience = 64;
      return length;
    }
    if (trying_ > 0) return --trying_, std::min(room, kTried);
    const bool anew = begins_ && !drafter_->is_free();
    if ((++trust.passed_over < trust.patience && !anew) || !may_try(size, rows)) return 0;
    trust.passed_over = 0;
    if (!anew) trust.patience = std::min(2 * trust.patience, kMostPatience);
    trying_ = drafter_->is_free() ? 0 : kTrySteps - 1;
    return std::min(room, kTried);
  };
  const base::Stopwatch clock;
  Draft draft;
  if (drafter_->is_free()) {
    draft = drafter_->propose(tokens, room, sampler);
    if (draft.tokens.empty()) return {};
    const int64_t length = length_for(trusts_[static_cast<size_t>(draft.trust)]);
    draft.tokens.resize(std::min(draft.tokens.size(), static_cast<size_t>(length)));
    last_trust_ = draft.trust;
  } else {
    const int64_t length = length_for(trusts_.front());
    if (length > 0) draft = drafter_->propose(tokens, length, sampler);
    last_trust_ = 0;
  }
  const double seconds = clock.seconds();
  statistics_.seconds += seconds;
  draft_cost_ = drafter_->is_free() ? 0 : seconds, drafted_over_ = rows;
  if (!drafter_->is_free() && !draft.tokens.empty()) {
    const auto drafted = static_cast<double>(draft.tokens.size());
    if (std::exchange(behind_, false)) {
      const double reading = std::max(seconds - drafted * draft_seconds_, 0.0);
      read_seconds_ = reading / static_cast<double>(std::max<int64_t>(size - read_, 1));
    } else {
      const double each = seconds / drafted;
      draft_seconds_ += draft_seconds_ == 0 ? each : (each < draft_seconds_ ? 0.5 : 0.1) * (each - draft_seconds_);
    }
    read_ = size, begins_ = false;
  }
  if (draft.tokens.empty()) behind_ = true;
  with_drafts_ = draft.tokens.empty() ? 0 : with_drafts_ + 1;
  return std::move(draft.tokens);
}

void Speculator::verified(int64_t verified, int64_t accepted) {
  Trust& trust = trusts_[static_cast<size_t>(last_trust_)];
  // Each accepted token is a trial, and so is the first that was not.
  for (int64_t i = 0; i < std::min(accepted + 1, verified); ++i) {
    trust.accepted = kForget * trust.accepted + (i < accepted ? 1 : 0);
    trust.trials = kForget * trust.trials + 1;
  }
  const double plain = costs_.expected(drafted_over_), step = costs_.expected(drafted_over_ + verified);
  lost_ = std::max(lost_ + draft_cost_ + step - plain - static_cast<double>(accepted) * plain, 0.0);
  ++statistics_.steps;
  statistics_.drafted += verified, statistics_.accepted += accepted;
}

}  // namespace coterie::runtime
