#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/memory.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "cli/terminal.h"
#include "models/families/family.h"
#include "models/parameters.h"
#include "models/score.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;

constexpr int64_t kGreedyPrompt = 8;
// Logits a step should hold, 8 MB, unless that makes the steps so short that weights are read too often.
constexpr int64_t kStepLogits = 2 << 20, kShortestStep = 32;

struct LogitsOptions {
  ModelOptions model;
  std::string ids, out;
  int64_t greedy = 0;
  bool gradients = false;
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

// With the cache, except where the frequencies of a dynamic rotary embedding change with the length: then keys that
// were turned with the old ones are of no use, and the sequence is evaluated anew, as the reference does for each
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
    const tensor::Matrix logits = engine.evaluate({&next, 1}, {.tap = &balance});
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
  models::Model model;
  std::unique_ptr<models::Parameters> parameters;
  std::vector<checkpoint::TensorToWrite> tensors;
};

std::unique_ptr<Gradients> make_gradients(const LogitsOptions& options, const Ids& ids, ops::Context& given) {
  auto result = std::make_unique<Gradients>();
  result->model = models::open_model(options.model.model, options.model.open_options());
  models::Decoder& decoder = *result->model.decoder;
  result->parameters = std::make_unique<models::Parameters>(decoder);
  tensor::Arena arena;
  ops::Context context{given.pool, given.kernels, arena, ops::Precision::f32};
  std::vector<std::span<const int32_t>> sequences;
  for (int64_t b = 0; b < ids.batch; ++b) sequences.push_back(ids.row(b));
  ops::Tape tape(arena, result->parameters->gradients());
  models::add_gradients(context, tape, decoder, sequences);
  const checkpoint::TensorSource& source = *result->model.source;
  result->tensors = models::gradients_to_write(*result->parameters, models::names_for(decoder.spec().family, source),
                                               source, "grad.");
  return result;
}

// An output that is one of the inputs would be replaced while it is mapped and read.
void check_output(const LogitsOptions& options) {
  namespace fs = std::filesystem;
  std::error_code absent;
  if (options.out.empty()) base::fail(ErrorKind::bad_input, "--output", "is empty, expected a file to write");
  if (!fs::exists(options.out, absent)) return;
  const fs::path folder = fs::absolute(options.out).parent_path();
  if (fs::equivalent(options.out, options.ids, absent) || fs::equivalent(options.out, options.model.model, absent) ||
      fs::equivalent(folder, options.model.model, absent))
    throw base::Error(ErrorKind::bad_input, options.out, "is one of the files to be read: it would be overwritten",
                      "give -o another name");
}

int logits_command(LogitsOptions options) {
  check_output(options);
  models::Model model = models::open_model(options.model.model, options.model.open_options());
  warn_about(model);
  const Ids ids = read_ids(options.ids, model.decoder->spec().vocabulary);
  const int64_t needed = std::max(ids.length, options.greedy > 0 ? kGreedyPrompt + options.greedy : 0);
  if (options.model.context == 0 && models::grows_with_length(*model.decoder))
    options.model.context = std::max(model.decoder->spec().context, needed);
  runtime::Engine engine(std::move(model), options.model.engine_options());
  if (ids.length > engine.context_size())
    base::fail(ErrorKind::bad_input, options.ids + ": input_ids", "has {} positions, the context is {}", ids.length,
               engine.context_size());
  if (options.greedy > 0 && (ids.length < kGreedyPrompt || kGreedyPrompt + options.greedy > engine.context_size()))
    base::fail(ErrorKind::bad_input, "--greedy", "{} tokens after the first {} need {} ids a row, and a context of {}",
               options.greedy, kGreedyPrompt, kGreedyPrompt, kGreedyPrompt + options.greedy);

  // The file is written as the logits come: they may be larger than the model. The sink asks for tensors of one width
  // in the order given, so the loss is known when its turn comes.
  models::CrossEntropy cross_entropy;
  models::LoadBalance balance;
  Progress progress;
  const auto produce_logits = [&](const Write& write) {
    for (int64_t b = 0; b < ids.batch; ++b) {
      progress.show(fmt::format("sequence {} of {}", b + 1, ids.batch));
      write_sequence(engine, ids.row(b), cross_entropy, balance, write);
    }
    progress.clear();
  };
  const auto produce_loss = [&](const Write& write) {
    double loss = cross_entropy.mean();
    if (const float weight = engine.spec().router_aux_loss; weight > 0) loss += weight * balance.loss();
    const float rounded = static_cast<float>(loss);
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
  print_note(fmt::format("{}: logits {}, loss {:.6f}{}", options.out,
                         tensor::to_string({ids.batch, ids.length, engine.spec().vocabulary}), cross_entropy.mean(),
                         options.greedy > 0 ? fmt::format(", {} greedy tokens a row", options.greedy) : ""));
  return 0;
}

}  // namespace

void add_logits(CLI::App& app, Action& action) {
  auto options = std::make_shared<LogitsOptions>();
  options->model.precision = "f32";
  CLI::App* command =
      app.add_subcommand("logits", "Logits, loss and greedy tokens for given ids, to check a conversion");
  options->model.add_model(*command);
  command->add_option("--ids", options->ids, "A safetensors file with input_ids, I64 or I32 of shape [B, T]")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("-o,--output", options->out,
                   "Written as safetensors: logits [B, T, V] f32, loss [1] f32, greedy [B, N] i64")
      ->type_name("FILE")
      ->required();
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
      "The loss is the mean cross-entropy of the next token, and what the family's reference adds to it.\n"
      "Examples:\n"
      "  coterie logits ./OLMoE-1B-7B --ids ids.safetensors -o ours.safetensors --greedy 16\n"
      "  coterie logits model.gguf --ids ids.safetensors -o fast.safetensors --precision fast");
  command->callback([=, &action] { action = [options] { return logits_command(*options); }; });
}

}  // namespace coterie::cli
