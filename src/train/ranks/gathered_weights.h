#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"
#include "families/weights/export.h"
#include "models/parameters.h"
#include "train/adamw.h"
#include "train/ranks/ownership.h"
#include "train/ranks/team.h"

namespace coterie::train {

/// How rank 0 writes what no rank has as a whole: it asks the owners, an expert or some megabytes at a time, while the
/// others do nothing but answer. The files are those of one rank, to the byte.
class GatheredWeights {
 public:
  /// All must outlive it. `optimiser` has what this rank owns, in the order of `ownership`.
  GatheredWeights(Team& team, const models::Parameters& parameters, const Ownership& ownership, const AdamW& optimiser)
      : team_(team), parameters_(parameters), ownership_(ownership), optimiser_(optimiser) {}

  /// All ranks call it: `write` runs on rank 0, and may use the functions below.
  void write_on_first(const std::function<void()>& write);

  /// Reads an expert's weight from its owner.
  families::ReadExpert reader();
  /// first_moment.NAME and second_moment.NAME, as AdamW's own.
  std::vector<checkpoint::TensorToWrite> moments();
  /// Fetches the experts' values of those parameters that are in memory as a whole here: their vectors, and with
  /// `matrices` everything (an adapter).
  void fetch_into_memory(bool matrices);

 private:
  enum class What : int64_t { done, values, first_moment, second_moment };
  struct Question {
    What what;
    int64_t parameter, begin, end;
  };
  const float* find(What what, const ValueRange& range) const;
  void fetch(What what, int owner, const ValueRange& range, const std::function<void(std::span<const float>)>& into);
  void answer_first();

  Team& team_;
  const models::Parameters& parameters_;
  const Ownership& ownership_;
  const AdamW& optimiser_;
};

}  // namespace coterie::train
