#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/folders.h"
#include "checkpoint/tensor_source.h"

namespace coterie::surgery {

/// Throws bad_input when something other than an empty folder is at `out`.
void refuse_existing(const std::filesystem::path& out);
/// Throws bad_input when `out` is the file (or a part of the set) a model is read from.
void refuse_same_file(const std::filesystem::path& source, const std::filesystem::path& out);

/// Throws unsupported for a model of quantised safetensors (FP8, GPTQ, AWQ, compressed-tensors), whose blocks are in
/// memory only: what works on the tensors as the files hold them cannot take it.
void refuse_quantised(const checkpoint::TensorSource& source);

/// The files of a model's folder that say how it reads and writes text: the tokenizer's files, chat templates and
/// generation_config.json, by name.
std::map<std::string, std::string, std::less<>> text_files(const std::filesystem::path& folder);

/// A folder that is written under a temporary name beside its own and gets that on commit(). Without commit() it is
/// removed, and so are missing folders above it that were made.
class NewFolder {
 public:
  /// Throws bad_input where refuse_existing does, io when it cannot be made.
  explicit NewFolder(std::filesystem::path target);
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;
  ~NewFolder();

  /// Calls `put` with where the files are now. What it throws names the folder by the name that was asked for.
  void fill(const std::function<void(const std::filesystem::path& now)>& put) const;
  void write(std::string_view name, std::string_view text) const;
  /// Throws bad_input where somebody else has made it meanwhile.
  void commit();

 private:
  std::filesystem::path target_, temporary_;
  std::optional<base::FoldersAbove> folders_;
  int lock_ = -1;  // on the temporary folder (base/leftovers.h)
};

}  // namespace coterie::surgery
