#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "runtime/sampler.h"

namespace coterie::cli {

/// Options of the sampler's rarer rules: DRY, XTC, top-n-sigma, dynamic temperature, Mirostat. Names and defaults are
/// llama.cpp's.
class SamplingRules {
 public:
  void add(CLI::App& app);
  /// What was asked for. Under Mirostat, filters that nobody asked for are off; one that was asked for is refused
  /// later, by the sampler.
  void set(runtime::SamplerOptions& sampler) const;

 private:
  runtime::SamplerOptions values_;
  std::vector<std::string> breakers_;
  const CLI::App* app_ = nullptr;
};

}  // namespace coterie::cli
