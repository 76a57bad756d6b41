#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace coterie::train {

/// The folder of a run, and what lies where in it:
///   recipe.json           the recipe as it was read; a run resumes only with the same
///   log.jsonl             what happened (lens/run_log.h reads it)
///   tokenizer/            the vocabulary of the run
///   tokens.safetensors    the data as tokens; validation.safetensors where it has files of its own
///   checkpoints/step-N/   config.json, tokenizer.json, model.safetensors, and optimizer.safetensors, state.json
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path recipe() const { return path_ / "recipe.json"; }
  std::filesystem::path log() const { return path_ / "log.jsonl"; }
  std::filesystem::path tokenizer() const { return path_ / "tokenizer"; }
  std::filesystem::path tokens() const { return path_ / "tokens.safetensors"; }
  std::filesystem::path validation() const { return path_ / "validation.safetensors"; }
  const std::filesystem::path& path() const { return path_; }

  /// Steps of the finished checkpoints, in ascending order. Folders that were not finished are not among them.
  std::vector<int64_t> checkpoints() const;
  std::filesystem::path checkpoint(int64_t step) const;

  /// Writes a checkpoint: `fill` puts its files into the folder it is given, which then gets its name, so that a reader
  /// finds all of it or nothing. Afterwards only the `kept` newest remain.
  void write_checkpoint(int64_t step, int64_t kept,
                        const std::function<void(const std::filesystem::path&)>& fill) const;

 private:
  std::filesystem::path path_;
};

}  // namespace coterie::train
