#pragma once

#include <cstdint>

#include "layers/moe/expert_source.h"

namespace coterie::layers {

/// A source that would rather be asked for one layer's experts again and again than for all layers' in turn: what it
/// has fetched for some rows is there for the next ones. The decoder then lets each block take rows_at_once() of a
/// step's rows at a time, and all of them before the next block begins. The bits are those of steps of so many rows one
/// after the other, and scratch is that of the smaller step. Not beside drafted rows.
class PiecewiseSource : public ExpertSource {
 public:
  /// Above 0; 0: a step is not cut.
  virtual int64_t rows_at_once() const = 0;
};

}  // namespace coterie::layers
