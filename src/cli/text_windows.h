#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "models/score.h"
#include "runtime/engine.h"

namespace coterie::cli {

/// A text cut into windows that are read each from an empty context, one after the other, each behind the token that
/// begins a text where the model has one.
class TextWindows {
 public:
  /// `file`: the text, "-" for standard input. `window`: tokens, at most the context; `tokens`: only the first so many,
  /// 0 for all. Refuses a window that leaves no token to predict, and a text of fewer than two.
  TextWindows(const runtime::Engine& engine, const std::string& file, int64_t window, int64_t tokens);

  int64_t count() const { return (std::ssize(ids_) + fresh_ - 1) / fresh_; }
  int64_t tokens() const { return std::ssize(ids_); }
  int64_t window() const { return window_; }
  std::vector<int32_t> at(int64_t index) const;

 private:
  std::vector<int32_t> ids_, start_;
  int64_t window_, fresh_;
};

/// --text, --window and --tokens of commands that look on while a model reads texts.
struct CalibrationTexts {
  std::vector<std::string> files;
  int64_t window = 512, tokens = 0;

  void add_to(CLI::App& app);
};

/// Evaluates what of `ids` the cache does not hold, and adds the predictions of ids[first] and all that follow it. The
/// cache holds fewer than `first` positions. `routers` changes what routers decide; each loss goes to the end of
/// `losses`, in order.
void score(runtime::Engine& engine, runtime::KvCache& cache, std::span<const int32_t> ids, int64_t first,
           models::CrossEntropy& cross_entropy, const layers::RouterHook* routers = nullptr,
           std::vector<double>* losses = nullptr);

/// Runs a window through the model, for those that look on; no logits are made.
void read_window(runtime::Engine& engine, std::span<const int32_t> ids, layers::Observer* observer = nullptr);

}  // namespace coterie::cli
