#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <sstream>

#include "base/error.h"
#include "base/memory.h"
#include "base/plural.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "cli/command_files.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/output_file.h"
#include "cli/ranks.h"
#include "cli/terminal.h"
#include "cli/text_input.h"
#include "families/family.h"
#include "families/weights/gradients.h"
#include "models/loss.h"
#include "models/parameters.h"
#include "models/score.h"
#include "runtime/not_finite.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;

constexpr int64_t kGreedyPrompt = 8;
// Logits a step should hold, 8 MB, unless that makes the steps so short that weights are read too often.
constexpr int64_t kStepLogits = 2 << 20, kShortestStep = 32;

struct LogitsOptions {
  ModelOptions model;
  std::string ids, text, out;
  int64_t greedy = 0;
  bool gradients = false, force = false;
};

struct Ids {
  int64_t batch = 0, length = 0;
  std::vector<int32_t> values;  // [B, T]
  std::span<const int32_t> row(int64_t b) const {
    return std::span(values).subspan(static_cast<size_t>(b * length), static_cast<size_t>(length));
  }
};

Ids read_ids(const std::string& path, int64_t vocabulary) {
  const auto source = checkpoint::open_safetensors(path);
  const checkpoint::TensorInfo* tensor = source->find("input_ids");
  if (!tensor)
    throw base::Error(ErrorKind::not_found, path, "has no tensor \"input_ids\"", "I64 or I32 of shape [B, T]");
  const bool wide = tensor->dtype == tensor::DType::i64;
  if ((!wide && tensor->dtype != tensor::DType::i32) || tensor->shape.size() != 2)
    base::fail(ErrorKind::bad_input, path + ": input_ids", "is {} of shape {}, expected i64 or i32 [B, T]",
               tensor::name(tensor->dtype), tensor::to_string(tensor->shape));
  Ids ids{tensor->shape[0], tensor->shape[1], {}};
  if (ids.batch == 0 || ids.length == 0)
    base::fail(ErrorKind::bad_input, path + ": input_ids", "is empty: shape {}", tensor::to_string(tensor->shape));
  for (int64_t i = 0; i < ids.batch * ids.length; ++i) {
    int64_t id = 0;
    int32_t narrow = 0;
    if (wide)
      std::memcpy(&id, tensor->bytes.data() + i * 8, 8);
    else
      std::memcpy(&narrow, tensor->bytes.data() + i * 4, 4), id = narrow;
    if (id < 0 || id >= vocabulary)
      base::fail(ErrorKind::bad_input, path + ": input_ids", "id {} at [{}, {}] is outside of the vocabulary of {}", id,
                 i / ids.length, i % ids.length, vocabulary);
    ids.values.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// A file, or ids by commas.
bool names_ids(const std::string& argument) {
  return !argument.empty() && argument.find_first_not_of("0123456789, -") == std::string::npos;
}

Ids ids_of(const LogitsOptions& options, const families::Model& model) {
  const int64_t vocabulary = model.decoder->spec().vocabulary;
  if (options.text.empty() && options.ids.empty())
    base::fail(ErrorKind::bad_input, "--text", "is empty: it holds no token");
  if (options.text.empty() && !names_ids(options.ids)) return read_ids(options.ids, vocabulary);
  Ids ids;
  ids.batch = 1;
  if (!options.text.empty()) {
    if (!model.tokenizer)
      throw base::Error(ErrorKind::unsupported, model.no_tokenizer.empty() ? options.model.model : "",
                        model.no_tokenizer.empty() ? "has no tokenizer" : model.no_tokenizer,
                        "--ids takes ids, which need no tokenizer");
    const std::vector<text::TokenId> encoded = model.tokenizer->encode(text_or_file(options.text, "--text"), true);
    ids.values.assign(encoded.begin(), encoded.end());
  } else {
    std::istringstream words(options.ids);
    for (std::string word; std::getline(words, word, ',');) {
      int64_t id = -1;
      std::istringstream(word) >> id;
      if (id < 0 || id >= vocabulary)
        base::fail(ErrorKind::bad_input, "--ids", "\"{}\" is not an id of the vocabulary of {}", word, vocabulary);
      ids.values.push_back(static_cast<int32_t>(id));
    }
  }
  ids.length = std::ssize(ids.values);
  if (ids.length == 0) base::fail(ErrorKind::bad_input, options.text.empty() ? "--ids" : "--text", "holds no token");
  return ids;
}

// With the cache, except where the frequencies of a dynamic rotary embedding change with the length: then keys that
// were rotated with the old ones are of no use, and the sequence is evaluated anew, as the reference does for each
// length.
std::vector<int64_t> decode_greedily(runtime::Engine& engine, const Ids& ids, int64_t count) {
  std::vector<int64_t> out;
  const models::Decoder& decoder = *engine.model().decoder;
  for (int64_t b = 0; b < ids.batch; ++b) {
    std::vector<int32_t> sequence(ids.row(b).begin(), ids.row(b).begin() + kGreedyPrompt);
    runtime::KvCache cache = engine.make_cache();
    for (int64_t i = 0; i < count; ++i) {
      const auto length = static_cast<int64_t>(sequence.size());
      if (cache.length() > 0 && !decoder.cache_holds(cache.length(), length)) cache = engine.make_cache();
      const auto fresh = std::span<const int32_t>(sequence).subspan(static_cast<size_t>(cache.length()));
      const models::SequenceStep next{.ids = fresh, .state = &cache, .length = length};
      const tensor::Matrix logits = engine.evaluate({&next, 1});
      const int64_t best = engine.context().kernels.vector.argmax(logits.row(0), logits.cols);
      sequence.push_back(static_cast<int32_t>(best));
      out.push_back(best);
    }
  }
  return out;
}

using Write = std::function<void(std::span<const std::byte>)>;

// One sequence in steps, so that only a step's logits are in memory. The prediction across two steps is scored from a
// copy of the row before.
void write_sequence(runtime::Engine& engine, std::span<const int32_t> ids, models::CrossEntropy& cross_entropy,
                    models::LoadBalance& balance, const Write& write) {
  const int64_t length = static_cast<int64_t>(ids.size()), vocabulary = engine.spec().vocabulary;
  const int64_t step = std::clamp<int64_t>(kStepLogits / vocabulary, kShortestStep, engine.step_tokens());
  runtime::KvCache cache = engine.make_cache();
  std::vector<float> before;
  for (int64_t t = 0; t < length; t += step) {
    const auto piece = ids.subspan(static_cast<size_t>(t), static_cast<size_t>(std::min(step, length - t)));
    const models::SequenceStep next{
        .ids = piece, .state = &cache, .logits = models::SequenceStep::Logits::all, .length = length};
    const tensor::Matrix logits = engine.evaluate({&next, 1}, {.observer = &balance});
    cross_entropy.add(logits, piece);
    const auto row = [&](int64_t r) { return std::span<const float>(logits.row(r), static_cast<size_t>(vocabulary)); };
    if (!before.empty()) {
      before.resize(2 * before.size());
      cross_entropy.add({before.data(), 2, vocabulary}, ids.subspan(static_cast<size_t>(t - 1), 2));
    }
    before.assign(row(logits.rows - 1).begin(), row(logits.rows - 1).end());
    for (int64_t r = 0; r < logits.rows; ++r) write(std::as_bytes(row(r)));
  }
}

/// A copy of the model in f32 with the gradients of the loss.
struct Gradients {
  families::Model model;
  std::unique_ptr<models::Parameters> parameters;
  std::vector<checkpoint::TensorToWrite> tensors;
};

std::unique_ptr<Gradients> make_gradients(const LogitsOptions& options, const Ids& ids, ops::Context& given) {
  auto result = std::make_unique<Gradients>();
  result->model = families::open_model(options.model.model, options.model.open_options());
  models::Decoder& decoder = *result->model.decoder;
  result->parameters = std::make_unique<models::Parameters>(decoder);
  tensor::Arena arena;
  ops::Context context{given.pool, given.kernels, arena, ops::Precision::f32};
  std::vector<std::span<const int32_t>> sequences;
  for (int64_t b = 0; b < ids.batch; ++b) sequences.push_back(ids.row(b));
  ops::Tape tape(arena, result->parameters->gradients());
  models::add_gradients(context, tape, decoder, sequences);
  const checkpoint::TensorSource& source = *result->model.source;
  result->tensors =
      families::gradients_to_write(*result->parameters, families::names_for(decoder.spec(), source), source, "grad.");
  return result;
}

int logits_command(LogitsOptions options) {
  refuse_output_file(options.out, options.force);
  families::Model model = open_for_engine(options.model);
  warn_about(model);
  const Ids ids = ids_of(options, model);
  const int64_t needed = std::max(ids.length, options.greedy > 0 ? kGreedyPrompt + options.greedy : 0);
  if (options.model.context == 0 && models::grows_with_length(*model.decoder))
    options.model.context = std::max(model.decoder->spec().context, needed);
  runtime::Engine engine(std::move(model), options.model.engine_options());
  if (ids.length > engine.context_size())
    base::fail(ErrorKind::bad_input, options.text.empty() ? "--ids" : "--text", "{} do not fit in the context of {}",
               base::plural(ids.length, "token"), engine.context_size());
  if (options.greedy > 0 && (ids.length < kGreedyPrompt || kGreedyPrompt + options.greedy > engine.context_size()))
    base::fail(ErrorKind::bad_input, "--greedy", "{} tokens after the first {} need {} ids a row, and a context of {}",
               options.greedy, kGreedyPrompt, kGreedyPrompt, kGreedyPrompt + options.greedy);

  // The file is written as the logits come: they may be larger than the model. The sink asks for tensors of one width
  // in the order given, so the loss is known when its turn comes.
  models::CrossEntropy cross_entropy;
  models::LoadBalance balance;
  Progress progress;
  const InterruptFlag interrupt;
  const auto produce_logits = [&](const Write& write) {
    for (int64_t b = 0; b < ids.batch; ++b) {
      if (interrupt.raised())
        throw base::Error(ErrorKind::interrupted, options.out, "interrupted: nothing was written");
      progress.show(fmt::format("sequence {} of {}", b + 1, ids.batch));
      write_sequence(engine, ids.row(b), cross_entropy, balance, write);
    }
    progress.clear();
  };
  const double weight = engine.spec().router_aux_loss;
  // Where nothing is predicted the mean is of nothing, as in PyTorch.
  const auto loss = [&] {
    if (cross_entropy.predictions() == 0) return std::numeric_limits<double>::quiet_NaN();
    return cross_entropy.mean() + (weight > 0 ? weight * balance.loss() : 0);
  };
  const auto produce_loss = [&](const Write& write) {
    const float rounded = static_cast<float>(loss());
    write(std::as_bytes(std::span(&rounded, 1)));
  };
  const auto produce_greedy = [&](const Write& write) {
    progress.show("decoding greedily");
    const std::vector<int64_t> greedy = decode_greedily(engine, ids, options.greedy);
    write(std::as_bytes(std::span(greedy)));
    progress.clear();
  };
  std::vector<checkpoint::TensorToWrite> tensors = {
      {"logits", tensor::DType::f32, {ids.batch, ids.length, engine.spec().vocabulary}, produce_logits},
      {"loss", tensor::DType::f32, {1}, produce_loss}};
  std::unique_ptr<Gradients> gradients;
  if (options.gradients) {
    progress.show("gradients");
    gradients = make_gradients(options, ids, engine.context());
    progress.clear();
    tensors.insert(tensors.end(), gradients->tensors.begin(), gradients->tensors.end());
  }
  if (options.greedy > 0)
    tensors.push_back({"greedy", tensor::DType::i64, {ids.batch, options.greedy}, produce_greedy});
  checkpoint::write_safetensors(options.out, tensors);
  if (cross_entropy.predictions() > 0 && !std::isfinite(loss())) {
    const std::string place = runtime::first_not_finite(*engine.model().source);
    print_warning(fmt::format("the loss is not a number{}", place.empty() ? "" : ": " + place));
  }
  std::string words = ", no loss: a single id predicts nothing";
  if (cross_entropy.predictions() > 0) words = fmt::format(", loss {:.6f}", loss());
  if (cross_entropy.predictions() > 0 && weight > 0)
    words += fmt::format(" (cross-entropy {:.6f}, the routers' balance loss {:.6f} times {:g})", cross_entropy.mean(),
                         balance.loss(), weight);
  if (options.greedy > 0) words += fmt::format(", {} a row", base::plural(options.greedy, "greedy token"));
  print_note(fmt::format("{}: logits {}{}", options.out,
                         tensor::to_string({ids.batch, ids.length, engine.spec().vocabulary}), words));
  return 0;
}

}  // namespace

void add_logits(CLI::App& app, Action& action) {
  auto options = std::make_shared<LogitsOptions>();
  options->model.precision = "f32";
  CLI::App* command =
      app.add_subcommand("logits", "Compute logits, loss and greedy tokens for given ids, to check a conversion");
  options->model.add_model(*command);
  CLI::Option* ids =
      command
          ->add_option(
              "--ids", options->ids,
              "Token ids separated by commas, or a safetensors file with input_ids, I64 or I32 of shape [B, T]")
          ->type_name("IDS")
          ->check(reads());
  CLI::Option* text =
      command->add_option("--text", options->text, "A text instead of ids; @FILE reads it from a file (@-: a pipe)")
          ->type_name("TEXT")
          ->check(reads(Reads::text))
          ->excludes(ids);
  command
      ->add_option("-o,--output", options->out,
                   "The safetensors file to write: logits [B, T, V] f32, loss [1] f32, greedy [B, N] i64")
      ->type_name("FILE")
      ->check(writes())
      ->required();
  add_force(*command, options->force);
  command
      ->add_option("--greedy", options->greedy,
                   "Also decode N tokens greedily, with the cache, after the first 8 ids of each row")
      ->type_name("N")
      ->check(at_least(0));
  command->add_flag("--gradients", options->gradients,
                    "Also write the loss's gradient by each tensor of the model, grad.NAME f32, all sequences as one "
                    "batch; takes memory for the model in f32, its gradients and every layer's activations");
  options->model.add_routing(*command);
  options->model.add_adapter(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "The loss is the mean cross-entropy of the next token, plus the balance loss of the routers where the config "
      "asks for\n"
      "it (output_router_logits), as the family's reference reports it.\n"
      "Examples:\n"
      "  coterie logits ./OLMoE-1B-7B --ids ids.safetensors -o ours.safetensors --greedy 16\n"
      "  coterie logits model.gguf --text \"The capital of France is\" -o logits.safetensors\n"
      "  coterie logits model.gguf --ids 1,2,3 -o logits.safetensors\n"
      "  coterie logits model.gguf --ids ids.safetensors -o fast.safetensors --precision fast");
  command->callback([=, &action] {
    if (ids->count() + text->count() == 0) throw CLI::RequiredError("--ids or --text");
    action = [options] { return logits_command(*options); };
  });
}

}  // namespace coterie::cli
