#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>

#include "checkpoint/safetensors_layout.h"
#include "families/weights/export.h"
#include "models/parameters.h"
#include "train/adamw.h"
#include "train/ranks/ownership.h"
#include "train/ranks/team.h"

namespace coterie::train {

/// How files are written of what no rank has as a whole. Weights: rank 0 writes them, and asks the owners, an expert or
/// some megabytes at a time, while the others do nothing but answer. What the optimiser keeps: each rank writes its own
/// into one file. The files are those of one rank, to the byte.
class GatheredWeights {
 public:
  /// All must outlive it. `optimiser` has what this rank owns, in the order of `ownership`.
  GatheredWeights(Team& team, const models::Parameters& parameters, const Ownership& ownership, const AdamW& optimiser)
      : team_(team), parameters_(parameters), ownership_(ownership), optimiser_(optimiser) {}

  /// All ranks call it: `write` runs on rank 0, and may use the functions below.
  void write_on_first(const std::function<void()>& write);

  /// Reads an expert's weight from its owner.
  families::ReadExpert reader();
  /// Rank 0: optimiser_file() of a folder that all ranks see, with first_moment.NAME and second_moment.NAME as AdamW's
  /// own tensors. It is whole when this returns. Throws io, by the name of the rank whose disk is full.
  void write_moments(const std::filesystem::path& folder);
  /// Fetches the experts' values of those parameters that are in memory as a whole here: their vectors, and with
  /// `matrices` everything (an adapter).
  void fetch_into_memory(bool matrices);

 private:
  enum class What : int64_t { done, values, moments };
  struct Question {
    What what;
    int64_t parameter, begin, end;
  };
  const float* find(const ValueRange& range) const;
  void fetch(int owner, const ValueRange& range, const std::function<void(std::span<const float>)>& into);
  checkpoint::SafetensorsLayout moments_layout(const std::string& where) const;
  void write_own_moments(const std::filesystem::path& file) const;
  void answer_first();

  Team& team_;
  const models::Parameters& parameters_;
  const Ownership& ownership_;
  const AdamW& optimiser_;
};

}  // namespace coterie::train
