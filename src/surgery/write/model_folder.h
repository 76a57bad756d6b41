#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_sink.h"
#include "surgery/write/folder.h"

namespace coterie::surgery {

/// The file beside a model that says how it was made.
inline constexpr const char* kReceipt = "receipt.json";

/// Called before each tensor with how many values are done of all; what it throws ends the writing.
using OnProgress = std::function<void(std::string_view tensor, int64_t done, int64_t all)>;

/// A Hugging Face folder that is being written: a NewFolder, so that a reader finds a whole model or none.
class ModelFolder {
 public:
  /// Throws bad_input when there is something under that name already: nothing is ever written over a model.
  explicit ModelFolder(std::filesystem::path out) : folder_(std::move(out)) {}

  /// NewFolder::fill
  void fill(const std::function<void(const std::filesystem::path& now)>& put) const { folder_.fill(put); }
  void write_json(std::string_view name, const base::Json& json) const { folder_.write(name, json.dump(2) + "\n"); }
  /// The files of `from` that say how text becomes tokens and how a text is generated; none there is no error.
  void copy_text_files(const std::filesystem::path& from) const;
  /// model.safetensors, or files of about `shard_bytes` each and their index. Returns the bytes of all.
  int64_t write_weights(std::vector<checkpoint::TensorToWrite> tensors, int64_t shard_bytes,
                        const OnProgress& on_progress) const;
  /// Under its name.
  void commit() { folder_.commit(); }

 private:
  NewFolder folder_;
};

}  // namespace coterie::surgery
