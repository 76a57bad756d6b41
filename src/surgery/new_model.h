#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/tensor_sink.h"
#include "families/open.h"
#include "models/spec.h"
#include "ops/context.h"
#include "surgery/write/model_folder.h"
#include "surgery/write/written.h"

namespace coterie::surgery {

struct NewModelOptions {
  int64_t shard_bytes = 5'000'000'000;  // of a safetensors file, about
  bool check = true;                    // run what was written and compare it with the model it was made of
  bool strict = false;                  // the check refuses tensors that the new model does not read
  std::string text = {};                // to compare on; empty: a few sentences
  int64_t tokens = 128;                 // of it
  OnProgress on_progress = {};
};

/// A new model on its way to a Hugging Face folder, in the order in which every command that makes one goes:
/// write → check → finish. The folder is there, whole, after finish() alone.
class NewModel {
 public:
  /// `result` collects the counts and the comparison, and must outlive this. Throws bad_input when something is at
  /// `out` already.
  NewModel(ops::Context& context, std::filesystem::path out, NewModelOptions options, Written& result);

  /// config.json, the text files of `parent` (tokenizer, chat template) and the weights of a model of `spec`, which is
  /// counted. Throws io.
  void write(const models::ModelSpec& spec, const base::Json& config, const families::Model& parent,
             std::vector<checkpoint::TensorToWrite> tensors);

  /// Unless the options say not to: opens what was written and compares it with `parent`; then calls `also`.
  void check(const families::Model& parent, const std::function<void(const families::Model& written)>& also = {});

  /// Writes the receipt and gives the folder its name.
  void finish(const base::Json& receipt);

 private:
  ops::Context& context_;
  NewModelOptions options_;
  ModelFolder folder_;
  Written& result_;
};

}  // namespace coterie::surgery
