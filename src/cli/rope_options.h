#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "models/rope_override.h"

namespace coterie::cli {

/// Options of a longer context at run time, by llama.cpp's names where it has them.
class RopeArguments {
 public:
  void add(CLI::App& app);
  /// `context` is what --context asks for, 0 where it does not.
  models::RopeOptions options(int64_t context) const;

 private:
  std::string scaling_;
  std::optional<double> scale_, freq_scale_;
  models::RopeOptions values_;
};

}  // namespace coterie::cli
