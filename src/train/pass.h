#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "layers/resident_state.h"
#include "models/decoder.h"
#include "ops/context.h"
#include "train/ranks/team.h"
#include "train/run_data.h"

namespace coterie::train {

/// Takes windows of tokens through a decoder, each a sequence from its beginning. Its states are kept from call to
/// call.
class Pass {
 public:
  Pass(const models::Decoder& decoder, int64_t length) : decoder_(decoder), length_(length) {}

  /// Σ -log p over all targets of the samples first … first + count - 1 of `split`. `seed` and the number of a window
  /// key what is drawn for it (dropout, noise). What it reads stays as it is until the next call: for the backward
  /// pass.
  double loss(ops::Context& context, const Split& split, int64_t first, int64_t count, uint64_t seed,
              const models::PassOptions& options = {});
  int64_t length() const { return length_; }

 private:
  const models::Decoder& decoder_;
  int64_t length_;
  std::vector<std::unique_ptr<layers::ResidentState>> states_;
  std::vector<int32_t> ids_, targets_;     // of all samples
  std::vector<int64_t> lengths_, sample_;  // of all sequences: tokens, and which sample each is of
};

/// Mean loss of a token over the first `count` windows, `batch` of them at a time, without dropout or noise. Ranks take
/// batches in turn. Nothing when `stop` is raised meanwhile, on any rank.
std::optional<double> mean_loss(Pass& pass, ops::Context& context, const Split& split, int64_t count, int64_t batch,
                                const models::PassOptions& options, Team& team, const std::atomic<bool>& stop);

}  // namespace coterie::train
