#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/options.h"
#include "cli/prompt_source.h"
#include "cli/terminal.h"
#include "layers/norm.h"
#include "layers/observer.h"

namespace coterie::cli {

namespace {

using base::ErrorKind;

struct EmbedOptions {
  ModelOptions model;
  PromptSource source;
  std::string pooling = "mean";
  bool lines = false, normalize = false, json = false, quiet = false;
};

/// The final norm of a decoder.
struct NormVectors final : layers::TensorReader {
  std::optional<std::vector<float>> weight, bias;

  void vector(const Tensor& tensor, int64_t n, const layers::Vector& slot) override {
    auto* kept = tensor.path == "final_norm" ? &weight : tensor.path == "final_norm.bias" ? &bias : nullptr;
    if (kept) kept->emplace(slot.data(), slot.data() + n);
  }
};

/// Gives them to another norm.
class NormWriter final : public layers::TensorVisitor {
 public:
  explicit NormWriter(const NormVectors& vectors) : vectors_(vectors) {}
  void matrix(const Tensor&, int64_t, int64_t, tensor::Weight&) override {}
  void stack(const Tensor&, int64_t, int64_t, int64_t, std::vector<tensor::Weight>&) override {}
  void vector(const Tensor& tensor, int64_t n, layers::Vector& slot) override {
    const std::vector<float>& values = tensor.path == "final_norm" ? *vectors_.weight : *vectors_.bias;
    slot.values = tensor::Buffer<float>(n);
    std::copy(values.begin(), values.end(), slot.values.data());
  }

 private:
  const NormVectors& vectors_;
};

/// The norm between the last block and the head, as the model has it.
layers::Norm final_norm(const families::Model& model) {
  NormVectors vectors;
  model.decoder->read(vectors);
  if (!vectors.weight)
    base::fail(ErrorKind::unsupported, model.name, "has no single last layer whose states could be pooled");
  const models::ModelSpec& spec = model.decoder->spec();
  layers::Norm norm(spec.final_norm, spec.width);
  NormWriter writer(vectors);
  norm.visit(writer, "final_norm");
  return norm;
}

/// Keeps what the last block hands on.
class LastBlock final : public layers::Observer {
 public:
  explicit LastBlock(int64_t layers) : last_(layers - 1) {}
  void block(int64_t layer, tensor::ConstMatrix x) override {
    if (layer != last_) return;
    states.clear();
    for (int64_t r = 0; r < x.rows; ++r) states.insert(states.end(), x.row(r), x.row(r) + x.cols);
  }
  std::vector<float> states;  // [N, D]

 private:
  int64_t last_;
};

struct Embedding {
  int64_t tokens = 0;
  std::vector<double> values;  // [D]
};

// The last hidden states h_t after the final norm: their mean over t, or the last of them.
Embedding embed(runtime::Engine& engine, const layers::Norm& norm, const std::string& text, const EmbedOptions& options,
                const std::string& where) {
  const std::vector<text::TokenId> ids = engine.tokenizer().encode(text, true);
  const int64_t length = std::ssize(ids), width = engine.spec().width;
  if (length == 0) base::fail(ErrorKind::bad_input, where, "is empty: it has no token");
  if (length > engine.context_size())
    throw base::Error(ErrorKind::bad_input, where,
                      fmt::format("has {} tokens, the context is {}", length, engine.context_size()),
                      "cut it into shorter texts");
  LastBlock observer(std::ssize(engine.spec().blocks));
  runtime::KvCache cache = engine.make_cache();
  Embedding result{length, std::vector<double>(static_cast<size_t>(width), 0)};
  for (int64_t t = 0; t < length; t += engine.step_tokens()) {
    const int64_t count = std::min(engine.step_tokens(), length - t);
    const models::SequenceStep step{.ids = std::span(ids).subspan(static_cast<size_t>(t), static_cast<size_t>(count)),
                                    .state = &cache,
                                    .logits = models::SequenceStep::Logits::none,
                                    .length = length};
    engine.evaluate({&step, 1}, {.observer = &observer});
    const tensor::Matrix states(observer.states.data(), count, width);
    norm.forward(engine.context(), states, states);
    for (int64_t r = options.pooling == "last" ? count - 1 : 0; r < count; ++r) {
      if (options.pooling == "last" && t + count < length) break;
      for (int64_t d = 0; d < width; ++d) result.values[static_cast<size_t>(d)] += states.row(r)[d];
    }
  }
  double squares = 0;
  for (double& value : result.values) {
    if (options.pooling == "mean") value /= static_cast<double>(length);
    squares += value * value;
  }
  if (!std::isfinite(squares)) base::fail(ErrorKind::bad_input, where, "gives states that are not numbers");
  if (options.normalize && squares > 0)
    for (double& value : result.values) value /= std::sqrt(squares);
  return result;
}

int embed_command(const EmbedOptions& options) {
  const std::string whole = options.source.read();
  std::vector<std::string> texts;
  if (options.lines) {
    for (size_t at = 0; at <= whole.size();) {
      const size_t end = std::min(whole.find('\n', at), whole.size());
      texts.push_back(whole.substr(at, end - at));
      if (texts.back().ends_with("\r")) texts.back().pop_back();
      at = end + 1;
    }
  } else {
    texts.push_back(whole);
  }
  runtime::Engine engine = open_engine(options.model);
  const layers::Norm norm = final_norm(engine.model());
  Progress progress;
  base::Json list = base::Json::array();
  std::string out;
  for (size_t i = 0; i < texts.size(); ++i) {
    if (texts.size() > 1) progress.show(fmt::format("text {} of {}", i + 1, texts.size()));
    const std::string where = options.lines ? fmt::format("line {}", i + 1) : "the text";
    const Embedding embedding = embed(engine, norm, texts[i], options, where);
    if (options.json)
      list.push_back({{"index", i}, {"tokens", embedding.tokens}, {"embedding", embedding.values}});
    else
      out += fmt::format("{:.9g}\n", fmt::join(embedding.values, " "));
  }
  progress.clear();
  if (options.json) {
    const base::Json json = {{"model", engine.model().name},
                             {"pooling", options.pooling},
                             {"normalized", options.normalize},
                             {"dimensions", engine.spec().width},
                             {"embeddings", list}};
    print(json.dump() + "\n");
  } else {
    print(out);
  }
  if (!options.quiet)
    print_note(fmt::format("{} {} of {} dimensions: the {} of the last hidden states, after the final norm{}",
                           texts.size(), texts.size() == 1 ? "embedding" : "embeddings", engine.spec().width,
                           options.pooling == "mean" ? "mean over the tokens" : "last token's",
                           options.normalize ? ", of length 1" : ""));
  return 0;
}

}  // namespace

void add_embed(CLI::App& app, Action& action) {
  auto options = std::make_shared<EmbedOptions>();
  CLI::App* command =
      app.add_subcommand("embed", "Compute embeddings of texts: the model's last hidden states, pooled");
  options->model.add_model(*command);
  options->source.add(*command, "The text");
  {
    const Heading heading(*command, kInput);
    command->add_flag("--lines", options->lines, "Take each line as a text of its own");
  }
  options->model.add_adapter(*command);
  {
    const Heading heading(*command, kOutput);
    command->add_option("--pooling", options->pooling, "mean: over the tokens; last: the last token's state")
        ->type_name("P")
        ->check(CLI::IsMember({"mean", "last"}))
        ->capture_default_str();
    command->add_flag("--normalize", options->normalize, "Divide by the length, so that a dot product is a cosine");
    command->add_flag("--json", options->json, "Print JSON: model, pooling, dimensions and each text's embedding");
    command->add_flag("-q,--quiet", options->quiet, "Print no line about what was pooled");
  }
  options->model.add_routing(*command);
  options->model.add_engine(*command, false);
  command->footer(
      "Hidden states are those after the final norm, as transformers gives them in last_hidden_state. A text gets the\n"
      "special tokens that the model's tokenizer puts around it. Printed as a line of numbers for each text.\n"
      "Examples:\n"
      "  coterie embed model.gguf -p \"a mixture of experts\" --normalize\n"
      "  coterie embed ./Qwen3-0.6B -f titles.txt --lines --pooling last --json");
  command->callback([=, &action] { action = [options] { return embed_command(*options); }; });
}

}  // namespace coterie::cli
