#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/json.h"
#include "checkpoint/tensor_sink.h"
#include "families/weights/export.h"
#include "models/decoder.h"
#include "train/adamw.h"

namespace coterie::train {

/// Where a run is, beside its weights: what a checkpoint's state.json holds.
struct Progress {
  int64_t step = 0, tokens = 0;  // steps done, targets they had
  double seconds = 0;            // in steps: without evaluation and checkpoints
  // The state of patience, where a recipe has it: the least validation loss, of the step best_step, how many there were
  // since that were no better, and the step of the last.
  std::optional<double> best;
  int64_t best_step = 0, waited = 0, judged_step = 0;
};

/// Puts the files of a model into `folder`: config.json, the files of `vocabulary` and model.safetensors under the
/// names of the model's family, which make it a Hugging Face model; `name` is what it is called. A head that is trained
/// with it (PredictingDecoder) is written with it. The config's dtype is that of the weights, f32. Experts without
/// bytes are read by `elsewhere`. Throws io (a full disk).
void write_model_files(const std::filesystem::path& folder, base::Json config, const std::filesystem::path& vocabulary,
                       const models::Decoder& decoder, const std::string& name,
                       const families::ReadExpert& elsewhere = {});

/// Of a checkpoint's folder: optimizer.safetensors, with what the optimiser keeps.
std::filesystem::path optimiser_file(const std::filesystem::path& folder);
/// Writes it; `moments` as AdamW::tensors_to_write() has them.
void write_moments(const std::filesystem::path& folder, std::span<const checkpoint::TensorToWrite> moments);
/// state.json, with which the run goes on: the last file of a checkpoint.
void write_state(const std::filesystem::path& folder, int64_t optimiser_steps, const Progress& progress);

/// Reads the optimiser's moments, where it has a part of the run's `parameters` its own, and where the run was. Throws
/// not_found and bad_input naming file and tensor.
Progress read_progress(const std::filesystem::path& folder, AdamW& optimiser, size_t parameters = 0);

}  // namespace coterie::train
