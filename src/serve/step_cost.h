#pragma once

#include <array>
#include <cstdint>

namespace coterie::serve {

/// What steps take, learnt from those that ran: one of n prompt tokens about fixed + n · each seconds (the weights are
/// read once, whatever n is; then every token costs its arithmetic), one that only decodes by itself. Late steps count
/// most. From it comes how many prompt tokens a step may take beside sequences that decode.
class StepCost {
 public:
  /// A step of `prompt_tokens` prompt tokens and one token of each of `decoding` sequences took `seconds`.
  void measured(int64_t prompt_tokens, int64_t decoding, double seconds);

  /// Expected; 0 where nothing is known.
  double seconds(int64_t prompt_tokens, int64_t decoding) const;
  /// Prompt tokens a second of late steps that read; 0 where nothing is known.
  double prompt_rate() const { return rate_; }

  struct Line {
    double fixed = 0, each = 0;  // each > 0 where the line is known
    bool known() const { return each > 0; }
  };
  const Line& line() const { return line_; }

  /// Prompt tokens for a step that is to take `stall` seconds. Never fewer than cost as much arithmetic as they cost
  /// reading (n · each = fixed): a mixture reads nearly all of its experts for a few tokens already, so smaller pieces
  /// read all weights for nothing. Where not even those fit, half as many again, with steps that only decode between
  /// them. Until two sizes have been seen it feels its way up from 32.
  int64_t chunk(double stall) const;
  /// To be called after each piece: the steps that only decode to be taken before the next. They take a fifth of the
  /// pieces' time, so that with them a prompt takes less than twice as long as alone.
  int64_t decode_steps_after(double stall, int64_t decoding);
  /// What the least piece takes: no prompt is read beside others with shorter gaps.
  double floor_seconds(double stall) const;

 private:
  /// Whether no piece fits `stall`.
  bool binds(double stall) const;
  void fit();

  // Sums over steps that read prompts, of 1, n, n², t, n · t, late ones weighing more.
  double weight_ = 0, n_ = 0, nn_ = 0, t_ = 0, nt_ = 0;
  double rate_ = 0;
  double over_ = 1;  // what a piece takes over what the line expects of it, at most, of late
  double owed_ = 0;  // seconds of steps that only decode
  int64_t last_tokens_ = 0;
  int alike_ = 0;  // steps that read about as many tokens as the last, in a row
  double last_seconds_ = 0;
  int64_t usual_tokens_ = 0;  // of the last piece that was not the short end of a prompt
  double usual_seconds_ = 0;
  Line line_;
  std::array<double, 65> decode_ = {};  // seconds by the number of sequences that decode; the last holds all larger
};

}  // namespace coterie::serve
