#include <fmt/format.h>

#include <cmath>
#include <fstream>

#include "laws/models/bench.h"
#include "laws/surgery/dense_families.h"
#include "laws/surgery/merging.h"
#include "support/expect_error.h"

// Merging identical models gives the model; what does not go together is refused.
namespace coterie::laws {
namespace {

using base::ErrorKind;
using base::Json;
namespace fs = std::filesystem;

const char* const kPrompts[] = {"the sea at night", "def area(w, h):", "In the beginning", "1 + 1 = 2"};

std::string recipe_of(const std::string& gate_mode, int experts, int chosen, const std::string& source = "a") {
  std::string yaml = fmt::format("base_model: a\ngate_mode: {}\nexperts_per_token: {}\nexperts:\n", gate_mode, chosen);
  for (int e = 0; e < experts; ++e) {
    yaml += fmt::format("  - source_model: {}\n", source);
    if (!gate_mode.ends_with("random"))
      yaml += fmt::format("    positive_prompts: [\"{}\", \"{} again\"]\n    negative_prompts: [\"{}\"]\n", kPrompts[e],
                          kPrompts[e], kPrompts[(e + 1) % 4]);
  }
  return yaml;
}

class MergeExperts : public testing::TestWithParam<Family> {};

TEST_P(MergeExperts, OfOneModelAreTheModelForEveryGateMode) {
  Models models;
  models.add("a", with(GetParam().config(), {{"vocab_size", 257}}));
  for (const std::string mode : {"hidden", "hidden_avg", "hidden_last", "cheap_embed", "random", "uniform_random"}) {
    const surgery::Merged done = models.merge(recipe_of(mode, 3, 2), mode);
    EXPECT_EQ(done.model_type, GetParam().written);
    ASSERT_TRUE(done.comparison);
    EXPECT_LE(done.comparison->relative(), 1e-5) << mode;
    EXPECT_LE(done.comparison->largest, 1e-4) << mode;
    EXPECT_GT(done.comparison->spread, 0.1);
    EXPECT_EQ(done.routing.size(), mode.ends_with("random") ? 0 : 3);
  }
}
INSTANTIATE_TEST_SUITE_P(Families, MergeExperts, testing::ValuesIn(families()), family_name);

TEST(MergeExpertsOf, SeveralModelsHaveTheFfnOfEach) {
  Models models;
  models.add("a", tiny_of("mistral"));
  models.add("b", tiny_of("mistral"), 2);
  const surgery::Merged done = models.merge(
      "base_model: a\nexperts:\n  - {source_model: b, positive_prompts: [x]}\n"
      "  - {source_model: a, positive_prompts: [y], residual_scale: 0.5}\n");
  EXPECT_GT(done.comparison->relative(), 1e-3);
  const std::string mine = "model.layers.1.block_sparse_moe.experts.", theirs = "model.layers.1.mlp.";
  EXPECT_EQ(models.values("out", mine + "0.w3.weight"), models.values("b", theirs + "up_proj.weight"));
  EXPECT_EQ(models.values("out", mine + "0.w1.weight"), models.values("b", theirs + "gate_proj.weight"));
  EXPECT_EQ(models.values("out", mine + "1.w1.weight"), models.values("a", theirs + "gate_proj.weight"));
  std::vector<float> down = models.values("a", theirs + "down_proj.weight");
  for (float& v : down) v *= 0.5f;
  EXPECT_EQ(models.values("out", mine + "1.w2.weight"), down);
  const std::string q = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_EQ(models.values("out", q), models.values("a", q));
}

// What a gate's row is, computed here from the states that a router then sees: those of a mixture whose experts are the
// base model, which is the base model.
TEST(MergeExpertsOf, GatesAreTheMeanOfWhatTheRouterReads) {
  Models models;
  models.add("a", tiny_of("llama", {{"attention_bias", nullptr}}));
  models.merge(
      "base_model: a\nexperts:\n  - {source_model: a, positive_prompts: [\"abc\", \"a much longer prompt\"]}\n"
      "  - {source_model: a, positive_prompts: [\"xyz\"], negative_prompts: [\"qrs\"]}\n");
  const families::Model merged = models.open("out");
  class Reader : public layers::Observer {
   public:
    void ffn_input(int64_t layer, tensor::ConstMatrix x) override {
      if (layer != 1) return;
      mean.assign(static_cast<size_t>(x.cols), 0);
      for (int64_t r = 0; r < x.rows; ++r)
        for (int64_t c = 0; c < x.cols; ++c)
          mean[static_cast<size_t>(c)] += static_cast<double>(x.row(r)[c]) / static_cast<double>(x.rows);
    }
    std::vector<double> mean;
  };
  const auto mean_of = [&](const std::string& prompt) {
    Reader reader;
    const std::vector<int32_t> ids = merged.tokenizer->encode(prompt);
    ops::Context context{models.pool, kernels::by_name("scalar"), models.arena, ops::Precision::f32};
    layers::ResidentState state(models::cache_block_bytes(merged.decoder->spec(), tensor::DType::f32),
                                tensor::DType::f32);
    state.reserve(std::ssize(ids));
    const models::SequenceStep step{.ids = ids, .state = &state};
    merged.decoder->forward(context, {&step, 1}, {.observer = &reader});
    models.arena.reset();
    return reader.mean;
  };
  const auto expect_row = [&](size_t row, const std::vector<double>& toward) {
    double squares = 0;
    for (const double v : toward) squares += v * v;
    const std::vector<float> gate = models.values("out", "model.layers.1.block_sparse_moe.gate.weight");
    for (size_t i = 0; i < toward.size(); ++i)
      EXPECT_NEAR(gate[row * toward.size() + i], toward[i] / std::sqrt(squares), 1e-4) << row << " " << i;
  };
  const std::vector<double> one = mean_of("abc"), other = mean_of("a much longer prompt");
  const std::vector<double> for_it = mean_of("xyz"), against = mean_of("qrs");
  std::vector<double> first(one.size()), second(one.size());
  for (size_t i = 0; i < one.size(); ++i) first[i] = (one[i] + other[i]) / 2, second[i] = for_it[i] - against[i];
  expect_row(0, first);
  expect_row(1, second);
}

TEST(MergeExpertsOf, ASharedExpertHasItsGateAndScale) {
  Models models;
  models.add("a", tiny_of("qwen2"));
  models.add("b", tiny_of("qwen2"), 2);
  const std::string experts =
      "base_model: a\nexperts:\n  - {source_model: a, positive_prompts: [x]}\n"
      "  - {source_model: b, positive_prompts: [y]}\n";
  models.merge(experts + "shared_experts:\n  - {source_model: b, positive_prompts: [z], residual_scale: 0.1}\n");
  const families::Model merged = models.open("out");
  EXPECT_EQ(std::get<layers::MoeSpec>(merged.decoder->spec().blocks[0].ffn).shared_hidden, 64);
  const std::string shared = "model.layers.0.mlp.shared_expert.";
  EXPECT_EQ(models.values("out", shared + "up_proj.weight"), models.values("b", "model.layers.0.mlp.up_proj.weight"));
  std::vector<float> down = models.values("b", "model.layers.0.mlp.down_proj.weight");
  for (float& v : down) v *= 0.1f;
  EXPECT_EQ(models.values("out", shared + "down_proj.weight"), down);
  double squares = 0;
  for (const float v : models.values("out", "model.layers.0.mlp.shared_expert_gate.weight"))
    squares += static_cast<double>(v) * static_cast<double>(v);
  EXPECT_NEAR(squares, 1, 1e-5);
  expect_error(ErrorKind::bad_input, {"shared_experts[0]", "positive_prompts"},
               [&] { models.merge(experts + "shared_experts:\n  - {source_model: b}\n", "out2"); });
}

TEST(MergeExpertsOf, NoiseIsOfItsSizeAndAnotherForEachExpert) {
  Models models;
  models.add("a", tiny_of("mistral"));
  models.merge(
      "base_model: a\ngate_mode: random\nexperts:\n  - {source_model: a, noise_scale: 0.01}\n"
      "  - {source_model: a, noise_scale: 0.01}\n");
  const std::string mine = "model.layers.0.block_sparse_moe.experts.";
  const std::vector<float> was = models.values("a", "model.layers.0.mlp.up_proj.weight");
  const std::vector<float> first = models.values("out", mine + "0.w3.weight"),
                           second = models.values("out", mine + "1.w3.weight");
  double squares = 0;
  for (size_t i = 0; i < was.size(); ++i) squares += std::pow(static_cast<double>(first[i] - was[i]), 2);
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(was.size())), 0.01, 0.001);
  EXPECT_NE(first, second);
}

TEST(MergeExpertsRefuse, WhatDoesNotGoTogether) {
  Models models;
  models.add("a", tiny_of("mistral"));
  models.add("wide", tiny_of("mistral", {{"intermediate_size", 96}}));
  models.add("deep", tiny_of("mistral", {{"num_hidden_layers", 4}}));
  models.add("relu", tiny_of("mistral", {{"hidden_act", "relu"}}));
  models.add("moe", tiny_of("mixtral"));
  models.add("other", tiny_of("mistral"));
  write_bytes_tokenizer(models.folder / "other", "<|stop|>");
  save_tiny(tiny_of("mistral"), models.folder / "mute");
  const auto no = ErrorKind::unsupported, bad = ErrorKind::bad_input;
  const auto refused = [&](ErrorKind kind, const std::string& yaml, std::initializer_list<std::string_view> words) {
    expect_error(kind, words, [&] { models.merge(yaml); });
    EXPECT_TRUE(models.nothing_was_left()) << yaml;
  };
  const auto with_source = [](const std::string& name) {
    return "base_model: a\ngate_mode: random\nexperts:\n  - source_model: a\n  - source_model: " + name + "\n";
  };
  refused(no, with_source("wide"), {"experts[1]", "wide", "96", "64", "intermediate_size"});
  refused(no, with_source("deep"), {"4 layers", "3"});
  refused(no, with_source("relu"), {"activation"});
  refused(no, with_source("moe"), {"dense"});
  refused(no, with_source("other"), {"tokenizer", "<|stop|>", "<|endoftext|>"});
  refused(bad, with_source("mute"), {"mute", "no tokenizer"});
  refused(ErrorKind::not_found, with_source("nowhere"), {"experts[1]", "nowhere", "downloaded"});
  refused(no, with_source("a+lora"), {"adapter"});
  const std::string experts = "experts:\n  - {source_model: a, positive_prompts: [x]}\n  - {source_model: a}\n";
  refused(bad, "base_model: a\n" + experts, {"experts[1]", "positive_prompts"});
  refused(bad, "base_model: a\ngate_mode: hiden\n" + experts, {"hiden", "hidden"});
  refused(bad, "base_model: a\ngate_mode: random\nexpert_per_token: 1\n" + experts,
          {"expert_per_token", "experts_per_token"});
  refused(bad, "base_model: a\nexperts:\n  - {source_model: a, possitive_prompts: [x]}\n",
          {"possitive_prompts", "positive_prompts"});
  refused(bad, "base_model: a\ngate_mode: random\nexperts:\n  - {source_model: a}\n", {"experts_per_token", "2"});
  refused(bad, "base_model: a\ngate_mode: random\nexperts:\n  - {source_model: a, positive_prompts: x}\n",
          {"positive_prompts"});
  refused(no, "base_model: a\ngate_mode: random\narchitecture: deepseek\n" + experts, {"deepseek"});
  refused(no, "base_model: a\ngate_mode: random\ndtype: int8\n" + experts, {"int8", "bfloat16"});
  refused(bad,
          "base_model: a\nexperts_per_token: 1\nexperts:\n"
          "  - {source_model: a, positive_prompts: [x], negative_prompts: [x]}\n",
          {"look the same"});
}

// Whole models.

TEST(MergeModels, LinearOfOneModelIsTheModelForEveryFamily) {
  for (const auto& [family, config] : tiny::configs()) {
    Models models;
    models.add("a", with(config, {{"vocab_size", 257}}));
    const auto done = models.merge("merge_method: linear\nmodels: [{model: a, parameters: {weight: 0.3}}]\n");
    EXPECT_EQ(done.comparison->largest, 0) << family;
    EXPECT_EQ(done.model_type, models.open("a").decoder->spec().family.shown());
  }
}

TEST(MergeModels, LinearIsTheMeanAndSumsWhereAskedTo) {
  Three models;
  models.merge(models_of("linear", ""), "mean");
  models.merge(models_of("linear", "parameters: {normalize: false}\n", "{weight: 0.25}"), "sum");
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const std::vector<float> b = models.values("b", name), c = models.values("c", name);
  const std::vector<float> mean = models.values("mean", name), sum = models.values("sum", name);
  for (size_t i = 0; i < b.size(); ++i) {
    EXPECT_NEAR(mean[i], (b[i] + c[i]) / 2, 1e-7);
    EXPECT_NEAR(sum[i], (b[i] + c[i]) / 4, 1e-7);
  }
}

TEST(MergeModels, SlerpEndsAreTheModelsAndItsMiddleKeepsTheLength) {
  Three models;
  const auto slerp = [](const std::string& t) {
    return "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters:\n  t: " + t + "\n";
  };
  models.merge(slerp("0"), "zero"), models.merge(slerp("1"), "one"), models.merge(slerp("0.5"), "half");
  models.expect_same("zero", "a");
  models.expect_same("one", "b");
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  const auto length = [&](const std::string& model) {
    double squares = 0;
    for (const float v : models.values(model, name)) squares += static_cast<double>(v) * static_cast<double>(v);
    return std::sqrt(squares);
  };
  EXPECT_NEAR(length("half"), (length("a") + length("b")) / 2, 0.02 * length("a"));
  // By layers and by names: attention goes from a to b, the rest stays in the middle.
  models.merge(slerp("[{filter: self_attn, value: [0, 1]}, {value: 0.5}]"), "gradient");
  const std::string q0 = "model.layers.0.self_attn.q_proj.weight", q2 = "model.layers.2.self_attn.q_proj.weight";
  EXPECT_EQ(models.values("gradient", q0), models.values("a", q0));
  EXPECT_EQ(models.values("gradient", q2), models.values("b", q2));
  EXPECT_EQ(models.values("gradient", name), models.values("half", name));
  models.merge(
      "merge_method: slerp\nbase_model: a\nslices:\n"
      "  - {sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}], parameters: {t: 0}}\n"
      "  - {sources: [{model: a, layer_range: [1, 3]}, {model: b, layer_range: [1, 3]}], parameters: {t: 1}}\n",
      "slices");
  EXPECT_EQ(models.values("slices", q0), models.values("a", q0));
  EXPECT_EQ(models.values("slices", q2), models.values("b", q2));
}

TEST(MergeModels, AtDensityOneDareIsTaskArithmeticAndSoIsTiesWhereSignsAgree) {
  Three models;
  const std::string base = "base_model: a\n";
  models.merge(models_of("task_arithmetic", base, "{weight: 0.4}"), "task");
  models.merge(models_of("dare_linear", base, "{weight: 0.4, density: 1}"), "dare");
  models.expect_same("task", "dare");
  // One model agrees with itself.
  const std::string one = "models: [{model: b, parameters: {weight: 0.4}}]\n" + base;
  models.merge("merge_method: task_arithmetic\n" + one, "task1");
  models.merge("merge_method: ties\nparameters: {normalize: false}\n" + one, "ties1");
  models.merge("merge_method: dare_ties\n" + one, "dareties1");
  models.expect_same("task1", "ties1");
  models.expect_same("task1", "dareties1");
  // With lambda 0 nothing changes; a single model at weight 1 is that model.
  models.merge(models_of("ties", base + "parameters: {lambda: 0}\n"), "none");
  models.expect_same("none", "a");
  models.merge("merge_method: task_arithmetic\nmodels: [{model: b, parameters: {weight: 1}}]\n" + base, "b1");
  models.expect_near("b1", "b");
}

TEST(MergeModels, TiesKeepsTheLargestAndSumsThoseOfTheElectedSign) {
  Three models;
  models.merge(models_of("ties", "base_model: a\n", "{weight: 1, density: 0.5}"));
  const std::string name = "model.layers.0.mlp.gate_proj.weight";
  const std::vector<float> a = models.values("a", name), out = models.values("out", name);
  std::vector<std::vector<float>> changes = {models.values("b", name), models.values("c", name)};
  for (std::vector<float>& change : changes) {
    std::vector<float> sizes;
    for (size_t i = 0; i < a.size(); ++i) sizes.push_back(std::abs(change[i] -= a[i]));
    std::sort(sizes.rbegin(), sizes.rend());
    const float least = sizes[sizes.size() / 2 - 1];
    for (float& v : change) v = std::abs(v) >= least ? v : 0;
  }
  int64_t elected = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const float x = changes[0][i], y = changes[1][i];
    float expected = x == 0 || y == 0 ? x + y : (x + y) / 2;
    if (x * y < 0) expected = std::abs(x) > std::abs(y) ? x : y, ++elected;
    EXPECT_NEAR(out[i], a[i] + expected, 1e-6) << i;
  }
  EXPECT_GT(elected, 10);
}

TEST(MergeModels, DareIsTheSameForTheSameSeedAndKeepsTheExpectation) {
  Three models;
  const std::string yaml = models_of("dare_linear", "base_model: a\n", "{weight: 0.5, density: 0.3}");
  surgery::MergeOptions seven, eight;
  seven.seed = 7, eight.seed = 8;
  models.merge(yaml, "one", seven), models.merge(yaml, "two", seven), models.merge(yaml, "three", eight);
  models.expect_same("one", "two");
  const std::string name = "model.embed_tokens.weight";
  EXPECT_NE(models.values("one", name), models.values("three", name));
  const std::vector<float> a = models.values("a", name), b = models.values("b", name), c = models.values("c", name),
                           out = models.values("one", name);
  int64_t kept_of_b = 0, both_dropped = 0;
  double along = 0, length = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double whole = 0.5 * static_cast<double>(b[i] - a[i] + c[i] - a[i]);
    both_dropped += out[i] == a[i];
    kept_of_b += std::abs(out[i] - a[i] - 0.5f * (b[i] - a[i]) / 0.3f) < 1e-5f;
    along += whole * static_cast<double>(out[i] - a[i]), length += whole * whole;
  }
  const auto count = static_cast<double>(a.size());
  EXPECT_NEAR(static_cast<double>(both_dropped) / count, 0.49, 0.03);
  EXPECT_NEAR(static_cast<double>(kept_of_b) / count, 0.21, 0.03);
  EXPECT_NEAR(along / length, 1, 0.1);
}

TEST(MergeModels, AnyThreadsGiveTheSameBytes) {
  Three models;
  const fs::path path =
      models.folder.write("recipe.yaml", models_of("dare_ties", "base_model: a\n", "{weight: 0.5, density: 0.4}"));
  surgery::MergeSources sources(path);
  const auto bytes = [&](int threads) {
    threads::Pool pool(threads);
    ops::Context context{pool, kernels::by_name("scalar"), models.arena, ops::Precision::f32};
    const fs::path out = models.folder / std::to_string(threads);
    surgery::merge_models(context, surgery::read_merge_recipe(base::read_yaml(path), path), sources, out,
                          {.check = false});
    std::ifstream file(out / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(bytes(1), bytes(3));
}

TEST(MergeModels, OfMixturesAndOfModelsInOtherFormats) {
  Models models;
  for (uint64_t seed : {1, 2}) models.add(seed == 1 ? "a" : "b", tiny_of("gpt_oss"), seed);
  models.merge(
      "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 0}}]\n"
      "dtype: bfloat16\n");
  const families::Model merged = models.open("out");
  EXPECT_EQ(base::read_json(models.folder / "out/config.json")["torch_dtype"], "bfloat16");
  for (const checkpoint::TensorInfo& t : merged.source->tensors()) EXPECT_EQ(t.dtype, tensor::DType::bf16);
}

TEST(MergeModelsRefuse, WhatIsMisspeltOrDoesNotGoTogether) {
  Three models;
  models.add("moe", tiny_of("qwen3_moe"));
  models.add("theta", tiny_of("qwen3", {{"rope_theta", 5e5}}));
  models.add("other", tiny_of("qwen3"));
  write_bytes_tokenizer(models.folder / "other", "<|stop|>");
  const auto no = ErrorKind::unsupported, bad = ErrorKind::bad_input;
  const auto refused = [&](ErrorKind kind, const std::string& yaml, std::initializer_list<std::string_view> words) {
    expect_error(kind, words, [&] { models.merge(yaml); });
    EXPECT_TRUE(models.nothing_was_left()) << yaml;
  };
  const auto pair = [](const std::string& method, const std::string& model, const std::string& rest) {
    return "merge_method: " + method + "\nmodels: [{model: a, parameters: {weight: 1}}, {model: " + model +
           ", parameters: {weight: 1}}]\n" + rest;
  };
  refused(no, pair("linear", "moe", ""), {"moe", "shape"});
  refused(no, pair("linear", "theta", ""), {"theta", "rotary frequencies"});
  refused(no, pair("linear", "other", ""), {"tokenizer"});
  refused(no, pair("tie", "b", "base_model: a\n"), {"tie", "ties"});
  refused(no, pair("karcher", "b", ""), {"karcher", "task_arithmetic"});
  refused(ErrorKind::not_found, pair("ties", "b", ""), {"base_model"});
  refused(bad, pair("linear", "b", "basemodel: a\n"), {"basemodel", "base_model"});
  refused(bad, pair("linear", "b", "parameters: {normalise: true}\n"), {"normalise", "normalize"});
  refused(bad, pair("linear", "b", "parameters: {density: 0.5}\n"), {"density", "linear"});
  refused(bad, pair("task_arithmetic", "b", "base_model: a\nparameters: {t: 0.5}\n"), {"t is not a parameter"});
  refused(bad, "merge_method: linear\nmodels: [{model: a}, {model: b}]\n", {"models[0]", "weight is not given"});
  refused(bad, models_of("ties", "base_model: a\n", "{weight: 1, density: 0}"), {"density is 0"});
  refused(bad, models_of("slerp", "base_model: a\nparameters: {t: 0.5}\n", "{}"), {"slerp", "2"});
  refused(bad, "merge_method: linear\nbase_model: a\n", {"models or slices"});
  refused(bad, pair("linear", "b", "parameters: {weight: [1, x]}\n"), {"weight"});
  refused(bad,
          "merge_method: linear\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: -1}}]\n",
          {"add up to 0"});
  const std::string range = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nslices:\n  - sources: ";
  refused(no, range + "[{model: a, layer_range: [0, 2]}, {model: b, layer_range: [1, 3]}]\n",
          {"layer_range", "same number"});
  refused(no, range + "[{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]\n", {"end at layer 2"});
  refused(no, range + "[{model: a, layer_range: [1, 3]}, {model: b, layer_range: [1, 3]}]\n", {"begins at layer 1"});
}

}  // namespace
}  // namespace coterie::laws
