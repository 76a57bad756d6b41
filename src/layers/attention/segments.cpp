#include "layers/attention/segments.h"

#include "base/error.h"

namespace coterie::layers {

std::vector<ops::Segment> segments(const Batch& batch, int64_t layer, tensor::DType& dtype) {
  std::vector<ops::Segment> result;
  result.reserve(batch.sequences.size());
  for (const SequenceRows& s : batch.sequences) {
    if (result.empty()) dtype = s.step.state->cache_dtype();
    base::require(s.step.state->cache_dtype() == dtype, "attention", "sequences of one batch with caches of {} and {}",
                  tensor::name(dtype), tensor::name(s.step.state->cache_dtype()));
    result.push_back({s.first_row, s.rows, s.first_position, s.step.state->blocks(layer)});
  }
  return result;
}

}  // namespace coterie::layers
