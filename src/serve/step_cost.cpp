#include "serve/step_cost.h"

#include <algorithm>
#include <cmath>

namespace coterie::serve {

namespace {
constexpr double kForget = 0.9;  // of what is known, at each step
constexpr int64_t kLeast = 16;   // a page
constexpr int64_t kFirst = 32;
constexpr double kOfStall = 0.9;  // what a piece is meant to take: attention's share grows with the prompt
constexpr int64_t kMostBetween = 8;
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
  last_tokens_ = prompt_tokens, last_seconds_ = seconds;
  for (double* sum : {&weight_, &n_, &nn_, &t_, &nt_}) *sum *= kForget;
  weight_ += 1, n_ += n, nn_ += n * n, t_ += seconds, nt_ += n * seconds;
  fit();
}

void StepCost::fit() {
  const double mean_n = n_ / weight_, mean_t = t_ / weight_;
  const double variance = nn_ / weight_ - mean_n * mean_n;
  // Sizes too close to each other say nothing of the slope: what was known of it stays, and moves with the times.
  if (variance < 0.01 * mean_n * mean_n) {
    if (line_.known()) {
      const double scale = mean_t / (line_.fixed + line_.each * mean_n);
      line_.fixed *= scale, line_.each *= scale;
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
  const auto fits = static_cast<int64_t>((kOfStall * stall - line_.fixed) / line_.each);
  const auto least = static_cast<int64_t>(std::ceil(line_.fixed / line_.each));
  // Beyond what has been seen, a line is a guess: at most twice as many as last time.
  const int64_t seen = 2 * std::max({last_tokens_, kFirst, static_cast<int64_t>(n_ / weight_)});
  return std::max({std::min(fits, seen), least, kLeast});
}

double StepCost::floor_seconds() const {
  return line_.known() ? std::max(2 * line_.fixed, line_.fixed + line_.each * static_cast<double>(kLeast)) : 0;
}

int64_t StepCost::decode_steps_between(double stall, int64_t decoding) const {
  const double piece = floor_seconds(), decode = seconds(0, decoding);
  if (piece <= stall || decode == 0) return 0;
  if (decode >= stall) return 1;
  return std::clamp<int64_t>(static_cast<int64_t>(std::ceil((piece - stall) / (stall - decode))), 1, kMostBetween);
}

}  // namespace coterie::serve
