#include "lens/trace.h"
#include "cli/command_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "base/clock.h"
#include "base/error.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/plural.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/terminal.h"
#include "cli/text_windows.h"
#include "models/score.h"

namespace coterie::cli {

namespace {

struct TraceOptions {
  ModelOptions model;
  std::vector<std::string> texts;
  int64_t window = 512, tokens = 0;
  std::string out, replay;
  bool json = false, force = false, decode = false;
};

std::vector<std::vector<int32_t>> sequences_of(const runtime::Engine& engine, const TraceOptions& options) {
  std::vector<std::vector<int32_t>> sequences;
  for (const std::string& text : options.texts) {
    const TextWindows windows(engine, text, options.window, options.tokens);
    for (int64_t w = 0; w < windows.count(); ++w) sequences.push_back(windows.at(w));
  }
  return sequences;
}

int record(TraceOptions& options) {
  refuse_output_file(options.out, options.force);
  runtime::Engine engine = open_engine(options.model);
  lens::RouterShape shape = lens::router_shape(engine.spec());
  const std::vector<std::vector<int32_t>> sequences = sequences_of(engine, options);
  const int64_t tokens = std::accumulate(sequences.begin(), sequences.end(), int64_t{0},
                                         [](int64_t sum, const auto& ids) { return sum + std::ssize(ids); });
  std::string names;
  for (const std::string& text : options.texts) names += (names.empty() ? "" : " ") + text;
  lens::TraceWriter writer(options.out, std::move(shape), tokens, {{"model", engine.model().name}, {"text", names}});
  Progress progress;
  const InterruptFlag interrupt;
  const base::Stopwatch clock;
  const int64_t most = options.decode ? 1 : engine.step_tokens();
  for (size_t s = 0; s < sequences.size(); ++s) {
    progress.show(fmt::format("window {} of {}", s + 1, sequences.size()));
    runtime::KvCache cache = engine.make_cache();
    const std::span<const int32_t> ids = sequences[s];
    while (cache.length() < std::ssize(ids)) {
      if (interrupt.raised())
        throw base::Error(base::ErrorKind::interrupted, options.out, "interrupted: nothing was written");
      const int64_t first = cache.length();
      const auto piece =
          ids.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(most, std::ssize(ids) - first)));
      const models::SequenceStep step{
          .ids = piece, .state = &cache, .logits = models::SequenceStep::Logits::none, .length = std::ssize(ids)};
      engine.evaluate({&step, 1}, {.observer = &writer.observer()});
      writer.add(piece, static_cast<int64_t>(s), first);
    }
  }
  writer.commit();
  progress.clear();
  const double seconds = clock.seconds();
  if (options.json) {
    print(base::Json{{"file", options.out},
                     {"tokens", tokens},
                     {"sequences", sequences.size()},
                     {"bytes", writer.bytes()},
                     {"seconds", seconds}}
              .dump(2) +
          "\n");
    return 0;
  }
  print_note(fmt::format("{}: {} in {}, {}; {:.1f} s, {:.1f} tokens/s", options.out, base::plural(tokens, "token"),
                         base::plural(std::ssize(sequences), "sequence"), base::human_bytes(writer.bytes()), seconds,
                         static_cast<double>(tokens) / seconds));
  print_reads(engine);
  return 0;
}

/// How two passes over the same tokens differ.
struct Differences {
  models::CrossEntropy own, replayed;
  double largest = 0;
  int64_t rows = 0, equal = 0;

  void add(std::span<const float> a, std::span<const float> b) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i)
      most = std::max(most, std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::max(largest, most);
    ++rows, equal += most == 0 && std::equal(a.begin(), a.end(), b.begin());
  }
};

std::vector<float> logits_of(runtime::Engine& engine, std::span<const int32_t> ids, const layers::RouterHook* routers,
                             int64_t step) {
  std::vector<float> logits;
  runtime::KvCache cache = engine.make_cache();
  while (cache.length() < std::ssize(ids)) {
    const int64_t first = cache.length();
    const models::SequenceStep one{
        .ids = ids.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(step, std::ssize(ids) - first))),
        .state = &cache,
        .logits = models::SequenceStep::Logits::all,
        .length = std::ssize(ids),
        .routers = routers};
    const tensor::Matrix rows = engine.evaluate({&one, 1});
    logits.insert(logits.end(), rows.data, rows.data + rows.rows * rows.cols);
  }
  return logits;
}

int replay(TraceOptions& options) {
  if (!options.out.empty() || !options.texts.empty())
    base::fail(base::ErrorKind::bad_input, "--replay",
               "reads its tokens from the trace, and writes none: no --text, no -o");
  const lens::Trace trace(options.replay);
  runtime::Engine engine = open_engine(options.model);
  lens::Replay hook(trace, lens::router_shape(engine.spec()));
  engine.check_ids(trace.ids);
  Differences seen;
  Progress progress;
  const InterruptFlag interrupt;
  constexpr int64_t kLogits = 64 << 20;  // floats of a window, twice
  const int64_t vocabulary = engine.spec().vocabulary, step = std::min<int64_t>(engine.step_tokens(), 128);
  for (int64_t s = 0; s < trace.sequences(); ++s) {
    if (interrupt.raised()) throw base::Error(base::ErrorKind::interrupted, options.replay, "interrupted");
    progress.show(fmt::format("sequence {} of {}", s + 1, trace.sequences()));
    const int64_t begin = trace.sequence_begin[static_cast<size_t>(s)],
                  end = trace.sequence_begin[static_cast<size_t>(s) + 1];
    const auto ids = trace.ids.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
    if (std::ssize(ids) > engine.context_size() || std::ssize(ids) * vocabulary > kLogits)
      base::fail(base::ErrorKind::bad_input, options.replay, "sequence {} has {} tokens, more than can be held at once",
                 s, ids.size());
    hook.begin(s);
    const std::vector<float> own = logits_of(engine, ids, nullptr, step),
                             replayed = logits_of(engine, ids, &hook, step);
    const auto matrix = [&](const std::vector<float>& logits) {
      return tensor::ConstMatrix(logits.data(), std::ssize(ids), vocabulary);
    };
    seen.own.add(matrix(own), ids), seen.replayed.add(matrix(replayed), ids);
    for (int64_t t = 0; t < std::ssize(ids); ++t)
      seen.add({matrix(own).row(t), static_cast<size_t>(vocabulary)},
               {matrix(replayed).row(t), static_cast<size_t>(vocabulary)});
  }
  progress.clear();
  if (options.json) {
    print(base::Json{{"trace", options.replay},
                     {"tokens", trace.tokens()},
                     {"sequences", trace.sequences()},
                     {"rows_equal_to_the_bit", seen.equal},
                     {"largest_difference", seen.largest},
                     {"cross_entropy", seen.own.mean()},
                     {"cross_entropy_replayed", seen.replayed.mean()}}
              .dump(2) +
          "\n");
    return 0;
  }
  const std::string verdict = seen.equal == seen.rows
                                  ? "the same logits to the bit"
                                  : fmt::format("{} of {} rows of logits equal to the bit, largest difference {:.3g}",
                                                seen.equal, seen.rows, seen.largest);
  print(fmt::format(
      "replayed {} of {}: {}\ncross-entropy {:.6f} with the model's own choices, {:.6f} with the trace's\n",
      base::plural(trace.tokens(), "token"), options.replay, verdict, seen.own.mean(), seen.replayed.mean()));
  return 0;
}

}  // namespace

void add_trace(CLI::App& app, Action& action) {
  auto options = std::make_shared<TraceOptions>();
  CLI::App* command = app.add_subcommand("trace", "Write down which experts each token of a text goes to");
  options->model.add_model(*command);
  {
    const Heading heading(*command, kInput);
    command->add_option("--text", options->texts, "The text, UTF-8; several are read one after the other")
        ->type_name("FILE")
        ->check(reads());
    command->add_option("--window", options->window, "Tokens that are read together (default: 512)")
        ->type_name("N")
        ->check(at_least(2));
    command->add_option("--tokens", options->tokens, "Only the first N tokens of each text")
        ->type_name("N")
        ->check(at_least(2));
    command
        ->add_option("--replay", options->replay,
                     "Read a trace's tokens with the experts and weights it has, and with the model's own choice, and "
                     "say how the logits differ")
        ->type_name("TRACE")
        ->check(reads());
    command->add_flag("--decode", options->decode, "Token by token, as an answer is made: the same trace, slower");
  }
  {
    const Heading heading(*command, kOutput);
    command->add_option("-o,--output", options->out, "The file to write, safetensors")
        ->type_name("FILE")
        ->check(writes());
    add_force(*command, options->force);
    command->add_flag("--json", options->json, "Print what was done as JSON");
  }
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "The file holds, for N tokens, L layers with routers and K experts a token: ids, sequence, position [N] i32, "
      "layers,\n"
      "width [L] i32, experts [N, L, K] i16 (best first, -1 for none), weights [N, L, K] f32, entropy [N, L] f32 in "
      "nats.\n"
      "It grows on the disk as the text is read, under a temporary name until it is whole. In Python:\n"
      "  safetensors.numpy.load_file(\"T.safetensors\")[\"experts\"]\n"
      "Examples:\n"
      "  coterie trace model.gguf --text book.txt -o book.safetensors\n"
      "  coterie trace model-q4.gguf --replay book.safetensors");
  command->callback([=, &action] {
    if (options->replay.empty() && options->texts.empty()) throw CLI::RequiredError("--text or --replay");
    if (options->replay.empty() && options->out.empty()) throw CLI::RequiredError("--output");
    action = [options] { return options->replay.empty() ? record(*options) : replay(*options); };
  });
}

}  // namespace coterie::cli
