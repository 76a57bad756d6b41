#pragma once

#include <string>
#include <vector>

#include "cli/options.h"
#include "surgery/write/convert.h"

namespace coterie::cli {

/// What `convert` and `quantize` share.
struct ConversionOptions {
  ModelOptions model;
  std::string out;
  std::vector<std::string> at;
  bool requantise = false, no_tokenizer = false, json = false, force = false;

  void add(CLI::App& command, const std::string& output);
  surgery::ConvertOptions options() const;
};

/// Opens, writes, and says on stderr (or with --json on stdout) what was written and what it lost.
int write_model(const ConversionOptions& conversion, surgery::ConvertOptions options);

}  // namespace coterie::cli
