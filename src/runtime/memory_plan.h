#pragma once

#include <cstdint>

#include "families/open.h"
#include "models/spec.h"
#include "tensor/dtype.h"

namespace coterie::runtime {

/// Bytes of scratch a step of `tokens` tokens takes at its highest point, `logit_rows` rows of logits included: what
/// the layers hold at once, from the widths in the spec. Said before the arena grows; a test compares it with what the
/// arena grew to.
int64_t scratch_bytes(const models::ModelSpec& spec, int64_t tokens, int64_t logit_rows, int threads);

/// What is resident once every weight has been touched, in a process that runs one sequence of `context` positions.
struct MemoryForecast {
  int64_t weights = 0;  // mapped from the files
  int64_t cache = 0;
  int64_t scratch = 0;
  int64_t doubled = 0;  // weights that are there twice while they are moved (RepackedWeights::doubled_bytes)
  int64_t process = 0;  // code, tokenizer, decoded vectors: what was resident when the forecast was made

  int64_t resident() const { return weights + cache + scratch + doubled + process; }
  /// What cannot be given back to the disk and read again: the rest of resident().
  int64_t required() const { return resident() - weights; }
};

/// What this process holds resident now without pages of the model's files, in bytes; `weights`: of weights that lie
/// in no file.
int64_t held_by_process(const checkpoint::TensorSource& source, int64_t weights);

/// The same, estimated, of a process that has not opened the model, or that runs others too.
int64_t process_bytes(const models::ModelSpec& spec);

/// Gives what was freed back to the system: opening a model parses much that is not kept.
void release_freed_memory();

/// For an opened model, in the process that opened it.
MemoryForecast forecast_memory(const families::Model& model, int64_t context, int64_t step_tokens,
                               tensor::DType cache_type, int threads);

}  // namespace coterie::runtime
