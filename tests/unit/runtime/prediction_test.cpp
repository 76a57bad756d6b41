#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/rng.h"
#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/prediction.h"
#include "families/weights/export.h"
#include "runtime/generation.h"
#include "runtime/speculation/head_drafter.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"

// Heads for multi-token prediction: their logits are the reference's, and what they draft changes no bit.
namespace coterie::runtime {
namespace {

using Logits = models::SequenceStep::Logits;

EngineOptions exact() {
  EngineOptions options;
  options.threads = 1;  // models of a few kilobytes
  options.precision = ops::Precision::f32;
  return options;
}

std::vector<TokenId> row_of(const checkpoint::TensorInfo& tensor, int64_t b) {
  const auto* const values = reinterpret_cast<const int64_t*>(tensor.bytes.data()) + b * tensor.shape[1];
  std::vector<TokenId> ids;
  for (int64_t i = 0; i < tensor.shape[1]; ++i) ids.push_back(static_cast<TokenId>(values[i]));
  return ids;
}

/// 1e-4, times the spread of what is expected where that is large.
void expect_near(tensor::Matrix found, const float* expected, const std::string& what) {
  double mean = 0, square = 0, most = 0;
  const auto count = static_cast<double>(found.rows * found.cols);
  for (int64_t i = 0; i < found.rows * found.cols; ++i)
    mean += static_cast<double>(expected[i]) / count, square += std::pow(static_cast<double>(expected[i]), 2) / count;
  for (int64_t r = 0; r < found.rows; ++r)
    for (int64_t c = 0; c < found.cols; ++c)
      most = std::max(
          most, std::abs(static_cast<double>(found.row(r)[c]) - static_cast<double>(expected[r * found.cols + c])));
  EXPECT_LE(most, 1e-4 * std::max(1.0, std::sqrt(square - mean * mean))) << what;
  EXPECT_GT(square, 0.01);
}

class PredictionHead : public testing::TestWithParam<const char*> {
 protected:
  std::string folder() const { return test::fixture(GetParam()); }
};

TEST_P(PredictionHead, LogitsAreTheReferences) {
  const auto expected = checkpoint::open_safetensors(folder() + "/expected.safetensors");
  const checkpoint::TensorInfo &ids = *expected->find("input_ids"), &logits = *expected->find("logits"),
                               &of_head = *expected->find("head_logits");
  Engine model(families::open_model(folder()), exact());
  Engine head(families::open_prediction_head(model.model()), exact());
  const int64_t tokens = ids.shape[1], vocabulary = logits.shape[2], width = model.spec().width;
  for (int64_t b = 0; b < ids.shape[0]; ++b) {
    const std::vector<TokenId> text = row_of(ids, b);
    std::vector<float> normed(static_cast<size_t>(tokens * width));
    KvCache cache = model.make_cache(), of = head.make_cache();
    const models::SequenceStep whole{
        .ids = text, .state = &cache, .logits = Logits::all, .normed = {normed.data(), tokens, width}};
    expect_near(model.evaluate({&whole, 1}),
                reinterpret_cast<const float*>(logits.bytes.data()) + b * tokens * vocabulary, "the model");
    const models::SequenceStep shifted{.ids = std::span(text).subspan(1),
                                       .state = &of,
                                       .logits = Logits::all,
                                       .before = {normed.data(), tokens - 1, width}};
    expect_near(head.evaluate({&shifted, 1}),
                reinterpret_cast<const float*>(of_head.bytes.data()) + b * (tokens - 1) * vocabulary, "the head");
  }
}

TEST_P(PredictionHead, DraftsChangeNoBitAndTheFirstIsTheHeads) {
  Engine model(families::open_model(folder()), exact());
  Engine head(families::open_prediction_head(model.model()), exact());
  const auto expected = checkpoint::open_safetensors(folder() + "/expected.safetensors");
  const std::vector<TokenId> text = row_of(*expected->find("input_ids"), 0);
  const auto generate = [&](TokenCache& tokens, std::span<const TokenId> prompt, uint64_t seed,
                            Speculator* speculator) {
    GenerationOptions options;
    options.sampler.seed = seed, options.sampler.temperature = seed == 0 ? 0 : 0.8;
    options.max_tokens = 30;
    options.ignore_end = true;
    options.speculator = speculator;
    Generation generation(model, std::move(tokens), prompt, options);
    run(model, generation, tokens);
    return std::vector<TokenId>(generation.generated().begin(), generation.generated().end());
  };
  StepSeconds costs;
  for (const uint64_t seed : {0U, 5U})
    for (const int64_t length : {1, 3}) {
      Speculator speculator(std::make_unique<HeadDrafter>(head), 4, costs);
      speculator.always(length);
      TokenCache plain{model.make_cache(), {}}, drafted{model.make_cache(), {}};
      // A second turn goes on with what was read, a third goes back.
      std::vector<TokenId> prompt(text.begin(), text.begin() + 12);
      for (int turn = 0; turn < 3; ++turn) {
        const std::vector<TokenId> answer = generate(plain, prompt, seed, nullptr);
        EXPECT_EQ(generate(drafted, prompt, seed, &speculator), answer) << seed << ' ' << length << ' ' << turn;
        if (turn == 0) prompt.insert(prompt.end(), answer.begin(), answer.end());
        prompt.insert(prompt.end(), text.begin(), text.begin() + 7);
        if (turn == 1) prompt.erase(prompt.begin() + 20, prompt.begin() + 30);
      }
      EXPECT_GT(speculator.statistics().drafted, 50);
    }

  // What it drafts after a text does not depend on how the text came to it.
  const int64_t width = model.spec().width, tokens = std::ssize(text);
  const auto& of_head = *expected->find("head_logits");
  std::vector<float> normed(static_cast<size_t>(tokens * width));
  KvCache cache = model.make_cache();
  const models::SequenceStep whole{
      .ids = text, .state = &cache, .logits = Logits::none, .normed = {normed.data(), tokens, width}};
  model.evaluate({&whole, 1});
  SamplerOptions greedy;
  greedy.temperature = 0;
  const Sampler sampler(greedy, model.spec().vocabulary);
  const auto rows = [&](int64_t from, int64_t to) {
    return tensor::ConstMatrix(normed.data() + from * width, to - from, width);
  };
  HeadDrafter pieces(head);
  for (int64_t at = 0; at + 1 < tokens;) {
    const int64_t count = std::min<int64_t>(1 + at % 5, tokens - 1 - at);
    const auto known = std::span(text).first(static_cast<size_t>(at + count + 1));
    pieces.see(known, at, rows(at, at + count));
    at += count;
    const Draft draft = pieces.propose(known, 3, sampler);
    HeadDrafter anew(head);
    anew.see(known, 0, rows(0, at));
    EXPECT_EQ(draft.tokens, anew.propose(known, 3, sampler).tokens) << at;
    const float* const expected_row =
        reinterpret_cast<const float*>(of_head.bytes.data()) + (at - 1) * of_head.shape[2];
    EXPECT_EQ(draft.tokens.front(), std::max_element(expected_row, expected_row + of_head.shape[2]) - expected_row);
  }

  // After some hundred tokens without a draft it goes on from the last of them, as one that has seen no others.
  std::vector<TokenId> longer;
  for (int64_t i = 0; i < 300; ++i) longer.push_back(text[static_cast<size_t>(i % (tokens - 1))]);
  const auto row = [&](int64_t i) { return rows(i % (tokens - 1), i % (tokens - 1) + 1); };
  HeadDrafter idle(head), late(head);
  const auto known = [&](int64_t i) { return std::span(longer).first(static_cast<size_t>(i + 2)); };
  for (int64_t i = 0; i + 1 < std::ssize(longer); ++i) {
    idle.see(known(i), i, row(i));
    if (i >= 257 - 64) late.see(known(i), i, row(i));
  }
  EXPECT_EQ(idle.propose(longer, 3, sampler).tokens, late.propose(longer, 3, sampler).tokens);
}

INSTANTIATE_TEST_SUITE_P(Families, PredictionHead,
                         testing::Values("deepseek-v3/mtp", "glm4-moe/mtp", "mellum/mtp", "bailing-hybrid/mtp",
                                         "qwen3_5-moe/mtp", "mimo-v2-flash/mtp", "nemotron-h/mtp"),
                         [](const auto& each) {
                           std::string name = each.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == '-' || c == '/'; }, '_');
                           return name;
                         });

// Under the names of Nemotron's, in a family whose own are not known.
TEST(PredictionHeads, OfOtherFormsAreRefusedByName) {
  constexpr const char* kName = "mtp.layers.0.eh_proj.weight";
  const TempFolder folder;
  const std::filesystem::path from = test::fixture("exaone-moe");
  std::filesystem::copy(from / "config.json", folder / "config.json");
  const auto source = checkpoint::open_safetensors(from / "model.safetensors");
  std::vector<checkpoint::TensorToWrite> tensors = families::tensors_to_write(*source);
  const std::vector<float> head(8);
  tensors.push_back(
      {kName, tensor::DType::f32, {8}, [&](const auto& write) { write(std::as_bytes(std::span(head))); }});
  checkpoint::write_safetensors(folder / "model.safetensors", tensors);
  const families::Model model = families::open_model(folder.path());
  expect_error(base::ErrorKind::unsupported, {"multi-token prediction", kName},
               [&] { families::open_prediction_head(model); });
}

// MiMo's is a layer with a window and a dense FFN, of which a model without such layers does not say how large they
// are.
TEST(PredictionHeads, WhoseSizesTheModelDoesNotSayAreRefused) {
  models::ModelSpec spec = families::open_model(test::fixture("mimo-v2-flash")).decoder->spec();
  std::erase_if(spec.blocks, [](const auto& block) { return std::holds_alternative<layers::DenseFfnSpec>(block.ffn); });
  expect_error(base::ErrorKind::unsupported, {"multi-token prediction", "dense FFN"},
               [&] { families::prediction_spec(spec); });
}

TEST(PredictionHeads, AreRefusedWhereThereIsNone) {
  const families::Model model = families::open_model(test::fixture("mixtral"));
  expect_error(base::ErrorKind::unsupported, {"multi-token prediction", "model.layers.2.eh_proj.weight"},
               [&] { families::open_prediction_head(model); });
}

}  // namespace
}  // namespace coterie::runtime
