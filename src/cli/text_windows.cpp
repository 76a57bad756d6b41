#include "cli/text_windows.h"

#include <algorithm>

#include "base/error.h"
#include "base/plural.h"
#include "base/utf8.h"
#include "cli/command_files.h"
#include "cli/options.h"
#include "cli/text_input.h"

namespace coterie::cli {

TextWindows::TextWindows(const runtime::Engine& engine, const std::string& file, int64_t window, int64_t tokens)
    : window_(std::min(window, engine.context_size())) {
  const std::string text = file_contents(file);
  base::require_utf8(text, name_of_input(file), "the text");
  ids_ = engine.tokenizer().encode(text, false);
  if (tokens > 0 && tokens < std::ssize(ids_)) ids_.resize(static_cast<size_t>(tokens));
  // A window begins as the model expects a text to begin; that is not scored.
  start_ = engine.tokenizer().encode("", true);
  if (!start_.empty()) start_.resize(engine.tokenizer().bos() == start_.front() ? 1 : 0);
  fresh_ = window_ - std::ssize(start_);
  if (fresh_ < 2)
    base::fail(base::ErrorKind::bad_input, "--window", "is {}, which leaves no token to predict", window_);
  if (std::ssize(ids_) < 2)
    base::fail(base::ErrorKind::bad_input, name_of_input(file), "holds {}: there is nothing to predict",
               base::plural(std::ssize(ids_), "token"));
}

std::vector<int32_t> TextWindows::at(int64_t index) const {
  std::vector<int32_t> sequence = start_;
  sequence.insert(sequence.end(), ids_.begin() + index * fresh_,
                  ids_.begin() + std::min((index + 1) * fresh_, std::ssize(ids_)));
  return sequence;
}

namespace {

// Logits that a step holds: 32 MB, but never steps so short that weights are read too often.
constexpr int64_t kStepLogits = 8 << 20, kShortestStep = 32;

/// Without logits, up to position `end`.
void read_up_to(runtime::Engine& engine, runtime::KvCache& cache, std::span<const int32_t> ids, int64_t end,
                layers::Observer* observer, const layers::RouterHook* routers = nullptr) {
  while (cache.length() < end) {
    const int64_t t = cache.length(), count = std::min(engine.step_tokens(), end - t);
    const models::SequenceStep step{.ids = ids.subspan(static_cast<size_t>(t), static_cast<size_t>(count)),
                                    .state = &cache,
                                    .logits = models::SequenceStep::Logits::none,
                                    .length = std::ssize(ids),
                                    .routers = routers};
    engine.evaluate({&step, 1}, {.observer = observer});
  }
}

}  // namespace

void CalibrationTexts::add_to(CLI::App& app) {
  app.add_option("--text", files, "Calibration text, UTF-8; several count together")
      ->type_name("FILE")
      ->check(reads())
      ->required();
  app.add_option("--window", window, "Tokens that are read together (default: 512)")
      ->type_name("N")
      ->check(at_least(2));
  app.add_option("--tokens", tokens, "Only the first N tokens of each text")->type_name("N")->check(at_least(2));
}

void score(runtime::Engine& engine, runtime::KvCache& cache, std::span<const int32_t> ids, int64_t first,
           models::CrossEntropy& cross_entropy, const layers::RouterHook* routers, std::vector<double>* losses) {
  base::require(cache.length() < first, "score", "{} positions are read, the first to score is {}", cache.length(),
                first);
  const int64_t length = std::ssize(ids), vocabulary = engine.spec().vocabulary;
  read_up_to(engine, cache, ids, first - 1, nullptr, routers);
  const int64_t step = std::clamp<int64_t>(kStepLogits / vocabulary, std::min(kShortestStep, engine.step_tokens()),
                                           engine.step_tokens());
  std::vector<float> before;  // the prediction across two steps is scored from a copy of the row before
  for (int64_t t = first - 1; t < length; t += step) {
    const auto piece = ids.subspan(static_cast<size_t>(t), static_cast<size_t>(std::min(step, length - t)));
    const models::SequenceStep next{.ids = piece,
                                    .state = &cache,
                                    .logits = models::SequenceStep::Logits::all,
                                    .length = length,
                                    .routers = routers};
    const tensor::Matrix logits = engine.evaluate({&next, 1});
    if (!before.empty()) {
      before.resize(2 * before.size());
      cross_entropy.add({before.data(), 2, vocabulary}, ids.subspan(static_cast<size_t>(t - 1), 2), losses);
    }
    cross_entropy.add(logits, piece, losses);
    before.assign(logits.row(logits.rows - 1), logits.row(logits.rows - 1) + vocabulary);
  }
}

void read_window(runtime::Engine& engine, std::span<const int32_t> ids, layers::Observer* observer) {
  runtime::KvCache cache = engine.make_cache();
  read_up_to(engine, cache, ids, std::ssize(ids), observer);
}

}  // namespace coterie::cli
