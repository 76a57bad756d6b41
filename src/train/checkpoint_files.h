#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>

#include "base/json.h"
#include "models/decoder.h"
#include "train/adamw.h"

namespace coterie::train {

/// Where a run is, beside its weights: what a checkpoint's state.json holds.
struct Progress {
  int64_t step = 0, tokens = 0;  // steps done, targets they had
  double seconds = 0;            // in steps: without evaluation and checkpoints
};

/// Puts the files of a checkpoint into `folder`: config.json, the files of `vocabulary` and model.safetensors under the
/// names of the model's family, which make it a Hugging Face model; optimizer.safetensors and state.json, with which
/// the run goes on. Throws io (a full disk).
void write_checkpoint_files(const std::filesystem::path& folder, const base::Json& config,
                            const std::filesystem::path& vocabulary, const models::Decoder& decoder,
                            const AdamW& optimiser, const Progress& progress);

/// Reads the optimiser's moments and where the run was. Throws not_found and bad_input naming file and tensor.
Progress read_progress(const std::filesystem::path& folder, AdamW& optimiser);

}  // namespace coterie::train
