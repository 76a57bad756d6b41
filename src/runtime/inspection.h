#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "families/open.h"
#include "models/account.h"
#include "runtime/expert_store/stream_plan.h"
#include "runtime/memory_plan.h"
#include "runtime/speculation/row_costs.h"

namespace coterie::runtime {

struct InspectionOptions {
  families::OpenOptions open;
  std::optional<tensor::DType> dtype;  // as if the matrices were stored so; none: as they are, or as the config says
  int64_t context = 0;                 // of the cache in the forecast; 0 = kInspectedContext or the model's, if less
  int64_t step_tokens = 512;
  int threads = 1;
  int64_t memory = 0;  // above 0: also how it would run in so much (Inspection::stream)
};
inline constexpr int64_t kInspectedContext = 512;

/// What can be said about a model without running it.
struct Inspection {
  std::string name;
  models::ModelSpec spec;
  models::Account account;
  std::vector<std::string> warnings;
  bool has_weights = false;
  int64_t file_bytes = 0;                                // on disk; 0 without weights
  std::optional<tensor::DType> dtype;                    // that matrices are counted in; none: the file's own mixture
  tensor::DType format = tensor::DType::bf16;            // that most bytes of matrices of layers are in
  std::optional<tensor::DType> output_format;            // of the output embeddings, where files or the config say it
  std::array<int64_t, models::kPlaces> bytes_held{};     // of weights in memory, by place
  std::array<int64_t, models::kPlaces> bytes_touched{};  // of them, read for a token
  int64_t context = 0, step_tokens = 0;                  // that the forecast is of
  MemoryForecast memory;
  // What reading experts from the disk is planned by, of a model with routed experts, where it was asked for: as the
  // engine plans it, from the files where there are some and no format is supposed.
  struct Stream {
    StreamNeeds needs = {};
    SlotClasses classes = {};
    int64_t positions = 0;  // of cache
  };
  std::optional<Stream> stream;

  int64_t weight_bytes() const;
  /// Weights and, at half of `context` on average, cache that a decoded token reads.
  int64_t bytes_per_token() const;
  /// The same of a step that verifies `drafted` tokens beside one: experts that several tokens of it take, in
  /// proportion to how many there are as if each token drew them anew, are read once; a recurrent state is copied for
  /// each.
  int64_t bytes_per_step(int64_t drafted) const;
  /// What that step costs, in steps of one token, where a step costs what `rows` says of the weights it reads, and
  /// states cost by their bytes. An expert counts by the rows that it gets on average.
  double step_cost(int64_t drafted, const RowCosts& rows) const;
  /// Times the tokens a second of a step of one token, where bytes are what a step costs, making the draft costs
  /// nothing, and drafted tokens are accepted in `acceptance` of all cases.
  double speculation_gain(int64_t drafted, double acceptance) const;
  /// The same, by step_cost.
  double speculation_gain(int64_t drafted, double acceptance, const RowCosts& rows) const;
};

/// From a folder, a .gguf, or a config.json alone. Throws as families::open_model and read_spec do.
Inspection inspect(const std::filesystem::path& path, const InspectionOptions& options);

}  // namespace coterie::runtime
