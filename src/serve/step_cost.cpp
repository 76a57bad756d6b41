#include "serve/step_cost.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

namespace coterie::serve {

namespace {
constexpr double kForget = 0.8;       // of what is known, at each step
constexpr double kDecodeShare = 0.2;  // of the time of pieces that are longer than the stall
constexpr double kSurprise = 1.3;     // times what was expected
constexpr double kTooAlike = 0.1;     // the variance of sizes, over their mean squared
constexpr double kAnySlope = 0.01;    // the same while none is known
constexpr int kAlike = 2;             // pieces of one size after which another is tried
constexpr int64_t kLeast = 16;        // a page
constexpr int64_t kFirst = 32;
constexpr double kOfStall = 0.9;    // what a piece is meant to take: attention's share grows with the prompt
constexpr double kOverKept = 0.95;  // of what pieces took beyond the line's word, from piece to piece
constexpr double kMostOver = 2;
constexpr double kLeastArithmetic = 1.5;  // of the least piece where the stall is too short, over its reading
}  // namespace

void StepCost::measured(int64_t prompt_tokens, int64_t decoding, double seconds) {
  if (prompt_tokens == 0) {
    if (decoding == 0) return;
    double& known = decode_[static_cast<size_t>(std::min<int64_t>(decoding, std::ssize(decode_) - 1))];
    known = known == 0 ? seconds : 0.8 * known + 0.2 * seconds;
    return;
  }
  const double n = static_cast<double>(prompt_tokens);
  rate_ = rate_ == 0 ? n / seconds : 0.7 * rate_ + 0.3 * n / seconds;
  alike_ = 10 * std::abs(prompt_tokens - last_tokens_) < prompt_tokens ? alike_ + 1 : 0;
  last_tokens_ = prompt_tokens, last_seconds_ = seconds;
  if (2 * prompt_tokens >= usual_tokens_) usual_tokens_ = prompt_tokens, usual_seconds_ = seconds;
  // A machine that has become slower, or faster, is so for all sizes: what was measured before moves with it, or a line
  // through points of two speeds would mean nothing.
  if (line_.known()) {
    const double ratio = std::clamp(seconds / (line_.fixed + line_.each * n), 0.25, 4.0);
    over_ = std::clamp(ratio, 1 + kOverKept * (over_ - 1), kMostOver);
    if (ratio > kSurprise || ratio < 1 / kSurprise) t_ *= std::sqrt(ratio), nt_ *= std::sqrt(ratio);
  }
  for (double* sum : {&weight_, &n_, &nn_, &t_, &nt_}) *sum *= kForget;
  weight_ += 1, n_ += n, nn_ += n * n, t_ += seconds, nt_ += n * seconds;
  fit();
}

void StepCost::fit() {
  const double mean_n = n_ / weight_, mean_t = t_ / weight_;
  const double variance = nn_ / weight_ - mean_n * mean_n;
  // Sizes too close to each other say nothing of the slope: pieces that are made to last equally long become smaller as
  // attention makes their tokens dearer, and look as if tokens cost nothing. Reading the weights costs what it did.
  if (variance < (line_.known() ? kTooAlike : kAnySlope) * mean_n * mean_n) {
    if (line_.known()) {
      if (line_.fixed > 0.9 * mean_t) line_.fixed = 0.9 * mean_t;
      line_.each = (mean_t - line_.fixed) / mean_n;
    }
    return;
  }
  const double each = (nt_ / weight_ - mean_n * mean_t) / variance;
  if (each <= 0) {  // noise, or no cost by token at all
    line_ = {0, mean_t / mean_n};
    return;
  }
  line_ = {std::max(mean_t - each * mean_n, 0.0), each};
  if (line_.fixed == 0) line_.each = mean_t / mean_n;
}

double StepCost::seconds(int64_t prompt_tokens, int64_t decoding) const {
  if (prompt_tokens > 0)
    return line_.known() ? line_.fixed + line_.each * static_cast<double>(prompt_tokens)
           : rate_ > 0   ? static_cast<double>(prompt_tokens) / rate_
                         : 0;
  // That of the nearest number that is known.
  const int64_t at = std::min<int64_t>(decoding, std::ssize(decode_) - 1);
  for (int64_t off = 0; off < std::ssize(decode_); ++off)
    for (const int64_t i : {at - off, at + off})
      if (i > 0 && i < std::ssize(decode_) && decode_[static_cast<size_t>(i)] > 0)
        return decode_[static_cast<size_t>(i)];
  return 0;
}

int64_t StepCost::chunk(double stall) const {
  if (!line_.known()) {
    if (last_tokens_ == 0) return kFirst;
    // As if all of its time went by tokens: too careful for more tokens, too bold for fewer.
    const auto last = static_cast<double>(last_tokens_);
    const double fits = kOfStall * stall / last_seconds_ * last;
    return std::clamp(static_cast<int64_t>(fits >= last ? fits : fits / 2), kLeast, 2 * std::max(last_tokens_, kFirst));
  }
  // Beyond what has been seen, a line is a guess: at most twice as many as last time.
  const int64_t seen = 2 * std::max({last_tokens_, kFirst, static_cast<int64_t>(n_ / weight_)});
  const double fits = binds(stall) ? kLeastArithmetic * line_.fixed : kOfStall * stall / over_ - line_.fixed;
  auto tokens = static_cast<int64_t>(std::ceil(fits / line_.each));
  // A slope from pieces of nearly one size is mostly noise. More tokens take at most so much longer as they are more.
  const auto usual = static_cast<double>(usual_tokens_);
  if (!binds(stall) && tokens > usual_tokens_)
    tokens = std::min(tokens, static_cast<int64_t>(usual * std::max(1.0, kOfStall * stall / usual_seconds_)));
  // Pieces of one size do not tell reading from arithmetic, and that is what a floor above the stall is made of: now
  // and then one is a third as large.
  return std::clamp(binds(stall) && alike_ >= kAlike ? tokens / 3 : tokens, kLeast, std::max(seen, kLeast));
}

int64_t StepCost::decode_steps_after(double stall, int64_t decoding) {
  const double decode = seconds(0, decoding);
  if (!line_.known() || !binds(stall) || decode == 0) return 0;
  owed_ += kDecodeShare * floor_seconds(stall);
  const auto steps = static_cast<int64_t>(owed_ / decode);
  owed_ -= static_cast<double>(steps) * decode;
  return steps;
}

bool StepCost::binds(double stall) const { return kOfStall * stall < 2 * line_.fixed; }

double StepCost::floor_seconds(double stall) const {
  if (!line_.known()) return 0;
  const double arithmetic = (binds(stall) ? kLeastArithmetic : 1) * line_.fixed;
  return line_.fixed + std::max(arithmetic, line_.each * static_cast<double>(kLeast));
}

}  // namespace coterie::serve
