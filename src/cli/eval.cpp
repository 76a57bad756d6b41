#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "models/score.h"

namespace coterie::cli {

namespace {

// Logits that a step holds: 32 MB, but never steps so short that weights are read too often.
constexpr int64_t kStepLogits = 8 << 20, kShortestStep = 32;

struct EvalOptions {
  ModelOptions model;
  std::string text;
  int64_t window = 512, tokens = 0;
  bool json = false;
};

// One window from an empty cache, in steps; the prediction across two steps is scored from a copy of the row before.
void score_window(runtime::Engine& engine, std::span<const int32_t> ids, models::CrossEntropy& cross_entropy) {
  const int64_t length = std::ssize(ids), vocabulary = engine.spec().vocabulary;
  const int64_t step = std::clamp<int64_t>(kStepLogits / vocabulary, std::min(kShortestStep, engine.step_tokens()),
                                           engine.step_tokens());
  runtime::KvCache cache = engine.make_cache();
  std::vector<float> before;
  for (int64_t t = 0; t < length; t += step) {
    const auto piece = ids.subspan(static_cast<size_t>(t), static_cast<size_t>(std::min(step, length - t)));
    const runtime::Evaluation evaluation{piece, &cache, models::SequenceStep::Logits::all, 0, length};
    const tensor::Matrix logits = engine.evaluate({&evaluation, 1});
    cross_entropy.add(logits, piece);
    if (!before.empty()) {
      before.resize(2 * before.size());
      cross_entropy.add({before.data(), 2, vocabulary}, ids.subspan(static_cast<size_t>(t - 1), 2));
    }
    before.assign(logits.row(logits.rows - 1), logits.row(logits.rows - 1) + vocabulary);
  }
}

int eval_command(const EvalOptions& options) {
  runtime::Engine engine = open_engine(options.model);
  const int64_t window = std::min(options.window, engine.context_size());
  std::vector<int32_t> ids = engine.tokenizer().encode(file_contents(options.text), false);
  if (options.tokens > 0 && options.tokens < std::ssize(ids)) ids.resize(static_cast<size_t>(options.tokens));
  // A window begins as the model expects a text to begin; that is not scored.
  std::vector<int32_t> start = engine.tokenizer().encode("", true);
  if (!start.empty()) start.resize(engine.tokenizer().bos() == start.front() ? 1 : 0);
  const int64_t fresh = window - std::ssize(start);
  if (fresh < 2) base::fail(base::ErrorKind::bad_input, "--window", "is {}, which leaves no token to predict", window);
  if (std::ssize(ids) < 2)
    base::fail(base::ErrorKind::bad_input, options.text, "holds {} tokens: there is nothing to predict", ids.size());

  models::CrossEntropy cross_entropy;
  Progress progress;
  const base::Stopwatch clock;
  const int64_t windows = (std::ssize(ids) + fresh - 1) / fresh;
  for (int64_t w = 0; w < windows; ++w) {
    progress.show(fmt::format("window {} of {}", w + 1, windows));
    std::vector<int32_t> sequence = start;
    const auto begin = ids.begin() + w * fresh, end = ids.begin() + std::min((w + 1) * fresh, std::ssize(ids));
    sequence.insert(sequence.end(), begin, end);
    score_window(engine, sequence, cross_entropy);
  }
  progress.clear();
  const double seconds = clock.seconds(), loss = cross_entropy.mean();
  const double perplexity = std::exp(loss), error = perplexity * cross_entropy.standard_error();
  if (options.json) {
    const base::Json result = {{"model", engine.model().name},
                               {"text", options.text},
                               {"isa", engine.isa()},
                               {"precision", options.model.precision},
                               {"window", window},
                               {"tokens", std::ssize(ids)},
                               {"predictions", cross_entropy.predictions()},
                               {"cross_entropy", loss},
                               {"cross_entropy_standard_error", cross_entropy.standard_error()},
                               {"perplexity", perplexity},
                               {"perplexity_standard_error", error},
                               {"seconds", seconds}};
    print(result.dump(2) + "\n");
  } else {
    print(fmt::format("perplexity {:.4f} ± {:.4f} · {} predictions in windows of {} · {} · {:.1f} s, {:.1f} tokens/s\n",
                      perplexity, error, cross_entropy.predictions(), window, options.model.precision, seconds,
                      static_cast<double>(ids.size()) / seconds));
  }
  return 0;
}

}  // namespace

void add_eval(CLI::App& app, Action& action) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* command = app.add_subcommand("eval", "Perplexity of a text, with its standard error");
  options->model.add_model(*command);
  command->add_option("--text", options->text, "The text, UTF-8; \"-\": standard input")->type_name("FILE")->required();
  command
      ->add_option("--window", options->window,
                   "Tokens that are read together, from an empty context; at most the context (default: 512)")
      ->type_name("N")
      ->check(at_least(2));
  command->add_option("--tokens", options->tokens, "Only the first N tokens of the text")
      ->type_name("N")
      ->check(at_least(2));
  command->add_flag("--json", options->json, "As JSON");
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "The text is cut into windows, one after the other, each behind the token that begins a text where the model "
      "has\n"
      "one. Each token that has another before it in its window is predicted; the perplexity is e to the mean "
      "cross-entropy in nats. The standard error takes predictions as\n"
      "independent.\n"
      "Examples:\n"
      "  coterie eval model.gguf --text book.txt\n"
      "  coterie eval model.gguf --text book.txt --precision f32 --tokens 20000 --json");
  command->callback([=, &action] { action = [options] { return eval_command(*options); }; });
}

}  // namespace coterie::cli
