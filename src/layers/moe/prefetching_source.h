#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "layers/moe/piecewise_source.h"

namespace coterie::layers {

/// What the next layer with experts will probably ask for: what its router says of the residual stream as it is while
/// the layer before is computed.
class RoutingGuess {
 public:
  virtual ~RoutingGuess() = default;
  /// The experts that are bound to that layer, as in ExpertCall.
  virtual std::span<const ops::ExpertInput> inputs() const = 0;
  /// ids [N, per_row] of a batch of N rows, each row's best first; -1: none.
  struct Choices {
    std::vector<int32_t> ids = {};
    int64_t per_row = 0;
  };
  /// Reads the residual stream as it is now, and computes; to be called by the thread that runs the pass, while the
  /// layer before is leased.
  virtual Choices choices() const = 0;
};

/// A source that can use it. No result depends on what is guessed.
class PrefetchingSource : public PiecewiseSource {
 public:
  /// Whether what is guessed is worth its arithmetic in this step.
  virtual bool looks_ahead() const = 0;
  /// Of the layer whose lease is asked for next; null: nothing. It lives as long as that lease.
  virtual void prefetch_by(const RoutingGuess* next) = 0;
};

/// Tells a source what is guessed, for as long as a layer is computed.
class PrefetchScope {
 public:
  /// `source` may be null.
  PrefetchScope(PrefetchingSource* source, const RoutingGuess* next) : source_(source) {
    if (source_) source_->prefetch_by(next);
  }
  PrefetchScope(const PrefetchScope&) = delete;
  PrefetchScope& operator=(const PrefetchScope&) = delete;
  ~PrefetchScope() {
    if (source_) source_->prefetch_by(nullptr);
  }

 private:
  PrefetchingSource* source_;
};

}  // namespace coterie::layers
