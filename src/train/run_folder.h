#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/folders.h"
#include "base/json.h"
#include "checkpoint/run_layout.h"

namespace coterie::train {

/// The folder of a run, and what lies where in it:
///   recipe.json           the recipe as it was read; a run resumes only with the same. Beside its sections `run`: of
///                         which file it was read, and `extended`: what was changed by --extend, and at which step. A
///                         folder without it is taken for nobody's only when it is empty
///   log.jsonl             what happened (lens/run_log.h reads it)
///   tokenizer/            the vocabulary of the run
///   config.json           of the model, for whoever looks at the folder
///   tokens.safetensors    the data as tokens; validation.safetensors where it has files of its own; beside them, of
///                         instructions, tokens.json and validation.json with their counts
///   data.json             what files of tokens that lie elsewhere were like, so that a run resumes on the same
///   .lock                 the number of the process that trains into it, or did last; its lock is the kernel's
///   best/                 with patience: the model or adapter of the best evaluation
///   checkpoints/step-N/   config.json, tokenizer.json, model.safetensors, and optimizer.safetensors, state.json
class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  std::filesystem::path recipe() const { return checkpoint::run_recipe(path_); }
  std::filesystem::path log() const { return path_ / "log.jsonl"; }
  std::filesystem::path tokenizer() const { return path_ / "tokenizer"; }
  std::filesystem::path tokens() const { return path_ / "tokens.safetensors"; }
  std::filesystem::path validation() const { return path_ / "validation.safetensors"; }
  std::filesystem::path data() const { return path_ / "data.json"; }
  const std::filesystem::path& path() const { return path_; }

  /// Whether there is a run in the folder, to be gone on with. Throws bad_input when there is one and `resume` is not
  /// set, or one of another recipe or over another model, naming what differs; and when the folder holds something else
  /// than runs: nothing is written among files of others.
  bool take_up(const base::Json& recipe, bool resume) const;

  /// recipe.json until a run has begun: whose folder it is, should the process be killed before.
  std::filesystem::path starting() const { return path_ / "recipe.json.part"; }
  /// Writes the recipe anew as it is once it was extended, and `change` behind those that it was extended by before:
  /// {"step": …, "changes": …} under the key "extended". What the run was read from stays.
  void extend(const base::Json& source, const base::Json& change) const;
  /// Removes the checkpoints after that of `step`, from which the run goes on.
  void remove_after(int64_t step) const;
  /// The folder where it holds a run that has begun, else those directly below it that do, by name: a recipe's
  /// variants.
  static std::vector<std::filesystem::path> runs_in(const std::filesystem::path& folder);
  /// Whether a run is in `folder`, or began to be.
  static bool holds_run(const std::filesystem::path& folder);
  bool is_starting() const;

  /// Steps of the finished checkpoints, in ascending order. Folders that were not finished are not among them.
  std::vector<int64_t> checkpoints() const;
  std::filesystem::path checkpoint(int64_t step) const;

  /// What was best by the validation data, where a recipe has patience: the files of a model or an adapter.
  std::filesystem::path best() const { return checkpoint::run_best(path_); }
  /// Writes that folder, whole or not at all.
  void write_best(const std::function<void(const std::filesystem::path&)>& fill) const;

  /// Writes a checkpoint: `fill` puts its files into the folder it is given, which then gets its name, so that a reader
  /// finds all of it or nothing. Afterwards only the `kept` newest remain.
  void write_checkpoint(int64_t step, int64_t kept,
                        const std::function<void(const std::filesystem::path&)>& fill) const;

 private:
  std::filesystem::path path_;
};

/// Two processes that trained into one folder would write over each other: whoever comes second is refused (bad_input),
/// by the number of the first, as long as this exists. The kernel lets go of it when the process ends, however it ends.
class RunLock {
 public:
  /// Makes the folder where there is none.
  explicit RunLock(const std::filesystem::path& folder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

/// The hold of a process on a run's folder. Where a run begins it makes the folder, and those above it, and takes away
/// what was made should the run not begin after all. What is there of a run that is `resumed` stays.
class RunStart {
 public:
  /// Throws what RunLock throws, and io where the folder cannot be made.
  RunStart(const RunFolder& folder, const base::Json& recipe, bool resumed);
  ~RunStart();
  RunStart(const RunStart&) = delete;
  RunStart& operator=(const RunStart&) = delete;

  /// It has begun: recipe.json gets its name.
  void done();

 private:
  const RunFolder& folder_;
  std::optional<base::FoldersAbove> folders_;  // the run's own and those above it
  bool done_;
  std::optional<RunLock> lock_;
};

}  // namespace coterie::train
