#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cli/options.h"
#include "runtime/speculation/speculation.h"

namespace coterie::cli {

/// --speculate and --draft-tokens: whether and how tokens are drafted.
class SpeculateOptions {
 public:
  /// Under the heading of the machine: they change no text.
  void add(CLI::App& app);
  bool given() const { return option_ && option_->count() > 0; }
  /// Before the model is opened: refuses what cannot be, and tells `model` of the drafts. `experts`: whether the
  /// command counts experts (--experts), which would count drafts that were wrong.
  void check(ModelOptions& model, bool experts) const;
  /// Null where nothing was asked for.
  std::unique_ptr<runtime::Speculation> open(const runtime::Engine& engine, const ModelOptions& model) const;

 private:
  CLI::Option* option_ = nullptr;
  std::string kind_;
  int64_t most_ = 8;
  bool always_ = false;
};

/// "120 of 180 drafted tokens accepted (67 %)"; where it does not pay now, that it is off.
std::string describe(const runtime::Speculator& speculator);

}  // namespace coterie::cli
