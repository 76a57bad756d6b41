#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "base/json.h"
#include "families/open.h"

namespace coterie::surgery {

/// The models that a merge recipe names, each opened once.
class MergeSources {
 public:
  /// Paths are relative to the recipe's folder, or, where there is nothing, to the current one.
  explicit MergeSources(std::filesystem::path recipe) : recipe_(std::move(recipe)) {}

  /// Throws not_found, naming the recipe's `where`, for what is not a folder here (nothing is downloaded); unsupported
  /// for a model that is not a folder of safetensors, and for adapters put on a model ("model+lora").
  const families::Model& open(const std::string& name, const std::string& where);
  /// Where it is. Throws not_found, saying what `kinds` of models can be named, and unsupported for adapters.
  std::filesystem::path find(const std::string& name, const std::string& where,
                             std::string_view kinds = "folders") const;

 private:
  std::filesystem::path recipe_;
  std::map<std::filesystem::path, families::Model> open_;
};

}  // namespace coterie::surgery
