#include "surgery/merge/prompt_states.h"

#include <algorithm>

#include "base/error.h"
#include "layers/observer.h"
#include "layers/resident_state.h"
#include "quant/rows.h"

namespace coterie::surgery {

namespace {

using base::ErrorKind;

// Tokens of a step, and of one whose logits are held.
constexpr int64_t kStepTokens = 512, kStepLogits = 128;

class MeanStates : public layers::Observer {
 public:
  MeanStates(const models::ModelSpec& spec, StateOf state, size_t prompts)
      : result(spec.blocks.size(), std::vector<double>(static_cast<size_t>(spec.width))),
        state_(state),
        share_(1 / static_cast<double>(prompts)) {}

  void begin(std::span<const Prompt> prompts) { prompts_ = prompts; }

  void ffn_input(int64_t layer, tensor::ConstMatrix x) override {
    std::vector<double>& mean = result[static_cast<size_t>(layer)];
    int64_t row = 0;
    for (const Prompt& prompt : prompts_) {
      const int64_t end = row + std::ssize(prompt.ids);
      const int64_t first = state_ == StateOf::last_token ? end - 1 : row + prompt.skipped;
      const double share = share_ / static_cast<double>(end - first);
      for (int64_t r = first; r < end; ++r)
        for (int64_t i = 0; i < x.cols; ++i) mean[static_cast<size_t>(i)] += share * static_cast<double>(x.row(r)[i]);
      row = end;
    }
  }
  std::vector<std::vector<double>> result;

 private:
  std::span<const Prompt> prompts_;
  StateOf state_;
  double share_;
};

class Choices : public layers::Observer {
 public:
  explicit Choices(int64_t experts) : counts(static_cast<size_t>(experts)) {}
  void plan(int64_t, const ops::RoutingPlan& plan, tensor::ConstMatrix) override {
    for (size_t e = 0; e < counts.size(); ++e)
      counts[e] += static_cast<double>(plan.tokens_of(static_cast<int64_t>(e)).size());
  }
  std::vector<double> counts;
};

}  // namespace

std::vector<Prompt> prompt_tokens(const families::Model& model, std::span<const std::string> prompts,
                                  std::string_view where) {
  if (!model.tokenizer)
    base::fail(ErrorKind::bad_input, where, "there is no tokenizer to read the prompts with: {}", model.no_tokenizer);
  std::vector<Prompt> result;
  for (const std::string& text : prompts) {
    Prompt prompt{model.tokenizer->encode(text, true), 0};
    const int64_t length = std::ssize(prompt.ids);
    if (length == 0) base::fail(ErrorKind::bad_input, where, "the prompt \"{}\" has no tokens", text);
    if (length > model.decoder->spec().context)
      base::fail(ErrorKind::bad_input, where, "a prompt has {} tokens, the model a context of {}", length,
                 model.decoder->spec().context);
    if (length > 1 && model.tokenizer->bos() == prompt.ids.front()) prompt.skipped = 1;
    result.push_back(std::move(prompt));
  }
  return result;
}

void read_prompts(ops::Context& context, const models::Decoder& decoder, std::span<const Prompt> prompts,
                  layers::Observer* observer, const OnPrompts& begin, const OnLogits& with_logits) {
  using Logits = models::SequenceStep::Logits;
  const int64_t most = with_logits ? kStepLogits : kStepTokens;
  for (size_t first = 0; first < prompts.size();) {
    size_t end = first;
    int64_t tokens = 0;
    for (; end < prompts.size() && (end == first || tokens + std::ssize(prompts[end].ids) <= most); ++end)
      tokens += std::ssize(prompts[end].ids);
    std::vector<layers::ResidentState> states;
    states.reserve(end - first);
    std::vector<models::SequenceStep> steps;
    for (size_t i = first; i < end; ++i) {
      states.emplace_back(models::cache_block_bytes(decoder.spec(), tensor::DType::f32), tensor::DType::f32,
                          models::state_floats(decoder.spec()));
      states.back().reserve(std::ssize(prompts[i].ids));
      steps.push_back({.ids = prompts[i].ids,
                       .state = &states.back(),
                       .logits = with_logits ? Logits::all : Logits::none,
                       .random_key = i + 1,
                       .length = 0});
    }
    begin(prompts.subspan(first, end - first));
    const tensor::Matrix logits = decoder.forward(context, steps, {.observer = observer});
    if (with_logits) with_logits(prompts.subspan(first, end - first), logits);
    context.arena.reset();
    first = end;
  }
}

std::vector<std::vector<double>> prompt_states(ops::Context& context, const families::Model& model,
                                               std::span<const std::string> prompts, StateOf state,
                                               std::string_view where) {
  const std::vector<Prompt> read = prompt_tokens(model, prompts, where);
  MeanStates observer(model.decoder->spec(), state, read.size());
  read_prompts(context, *model.decoder, read, &observer, [&](std::span<const Prompt> step) { observer.begin(step); });
  return std::move(observer.result);
}

std::vector<double> prompt_embedding(const families::Model& model, std::span<const std::string> prompts,
                                     std::string_view where) {
  class Embedding : public layers::TensorReader {
   public:
    void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override {
      if (tensor.path == "embedding") table = slot;
    }
    tensor::Weight table;
  } embedding;
  model.decoder->read(embedding);
  const tensor::Weight& table = embedding.table;
  std::vector<double> mean(static_cast<size_t>(table.cols));
  std::vector<float> row(static_cast<size_t>(table.cols));
  const std::vector<Prompt> read = prompt_tokens(model, prompts, where);
  for (const Prompt& prompt : read) {
    const double share =
        1 / static_cast<double>(std::ssize(prompt.ids) - prompt.skipped) / static_cast<double>(read.size());
    for (auto t = static_cast<size_t>(prompt.skipped); t < prompt.ids.size(); ++t) {
      if (prompt.ids[t] < 0 || prompt.ids[t] >= table.rows)
        base::fail(ErrorKind::bad_input, where, "token {} has no row in the embedding of {}", prompt.ids[t],
                   table.rows);
      quant::decode_row(table, prompt.ids[t], row.data());
      for (size_t i = 0; i < row.size(); ++i) mean[i] += share * static_cast<double>(row[i]);
    }
  }
  return mean;
}

std::vector<double> prompt_routing(ops::Context& context, const families::Model& model,
                                   std::span<const std::string> prompts, int64_t experts, std::string_view where) {
  const std::vector<Prompt> read = prompt_tokens(model, prompts, where);
  Choices observer(experts);
  read_prompts(context, *model.decoder, read, &observer, [](std::span<const Prompt>) {});
  double all = 0;
  for (const double count : observer.counts) all += count;
  for (double& count : observer.counts) count = all > 0 ? count / all : 0;
  return std::move(observer.counts);
}

}  // namespace coterie::surgery
