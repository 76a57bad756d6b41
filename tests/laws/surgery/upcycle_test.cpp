#include "surgery/upcycle/upcycle.h"

#include <fstream>

#include "laws/models/bench.h"
#include "laws/surgery/dense_families.h"
#include "support/expect_error.h"

// An upcycled model at step 0 is its parent, wherever that can be.
namespace coterie::laws {
namespace {

using base::ErrorKind;
using base::Json;
using surgery::UpcycleOptions;
namespace fs = std::filesystem;

/// A dense tiny model in a folder, and what upcycling it gives.
struct Dense {
  explicit Dense(const Json& config) {
    save_tiny(config, folder / "dense");
    model = families::open_model(folder / "dense");
  }
  surgery::Upcycled upcycle(UpcycleOptions options, const std::string& name = "out") {
    ops::Context context{pool, kernels::by_name("scalar"), arena, ops::Precision::f32};
    options.tokens = 24;
    return surgery::upcycle(context, model, folder / name, options);
  }
  families::Model written(const std::string& name = "out") {
    families::OpenOptions strict;
    strict.strict = true;
    return families::open_model(folder / name, strict);
  }
  TempFolder folder;
  families::Model model;
  threads::Pool pool{2};
  tensor::Arena arena;
};

class Upcycle : public testing::TestWithParam<Family> {
 protected:
  static Json config() { return GetParam().config(); }
};

TEST_P(Upcycle, AtStepZeroIsTheParentForEveryK) {
  Dense dense(config());
  for (const int64_t k : {1, 2, 3, 4}) {
    const std::string name = "k" + std::to_string(k);
    const surgery::Upcycled done = dense.upcycle({.experts = 4, .experts_per_token = k}, name);
    EXPECT_EQ(done.model_type, GetParam().written);
    ASSERT_TRUE(done.comparison);
    EXPECT_EQ(done.comparison->tokens, 24);
    EXPECT_LE(done.comparison->relative(), 1e-5) << k;
    EXPECT_GT(done.comparison->spread, 0.1);
    EXPECT_EQ(done.comparison->same_best, 1);
    const families::Model written = dense.written(name);
    EXPECT_EQ(written.decoder->spec().family.shown(), GetParam().written);
    EXPECT_EQ(written.decoder->spec().tied_embeddings, dense.model.decoder->spec().tied_embeddings);
    EXPECT_TRUE(written.warnings.empty()) << written.warnings.front();
  }
}

TEST_P(Upcycle, WithGranularityIsTheParentWhereTheChosenAreWholeCopies) {
  Dense dense(config());
  for (const int64_t k : {4, 8, 12}) {
    const auto done = dense.upcycle({.experts = 12, .experts_per_token = k, .granularity = 4}, "k" + std::to_string(k));
    EXPECT_LE(done.comparison->relative(), 1e-5) << k;
    EXPECT_EQ(done.scale, 4);
  }
  const auto torn = dense.upcycle({.experts = 12, .experts_per_token = 3, .granularity = 4}, "torn");
  EXPECT_GT(torn.comparison->relative(), 1e-4);
}

TEST_P(Upcycle, NoiseAndUnitsDrawnAnewAreReported) {
  Dense dense(config());
  const auto noisy = dense.upcycle({.experts = 3, .experts_per_token = 2, .noise = 0.1}, "noisy");
  const auto drawn = dense.upcycle({.experts = 3, .experts_per_token = 2, .reinit = 0.5}, "drawn");
  EXPECT_GT(noisy.comparison->relative(), 1e-4);
  EXPECT_GT(drawn.comparison->relative(), 1e-3);
  EXPECT_TRUE(std::isfinite(drawn.comparison->largest));
}
INSTANTIATE_TEST_SUITE_P(Families, Upcycle, testing::ValuesIn(families()), family_name);

Json tiny_of(const std::string& family, const Json& changes = Json::object()) {
  return with(tiny::configs().at(family), changes);
}

TEST(UpcycleShared, CopyGivesHalfOfTheSumAndIdleNothing) {
  for (const auto& [family, type] :
       {std::pair("qwen2", "qwen2_moe"), std::pair("granite", "granitemoeshared"), std::pair("qwen3", "coterie")}) {
    Dense dense(tiny_of(family, {{"mlp_bias", nullptr}}));
    const std::string as = std::string(type) == "coterie" ? "coterie" : "";
    for (const auto shared : {UpcycleOptions::Shared::copy, UpcycleOptions::Shared::idle}) {
      const auto done = dense.upcycle({.experts = 4, .experts_per_token = 2, .shared = shared, .model_type = as},
                                      "s" + std::to_string(static_cast<int>(shared)));
      EXPECT_EQ(done.model_type, type);
      EXPECT_LE(done.comparison->relative(), 1e-5) << family;
    }
  }
}

// Gates that are not renormalised weigh 1/E each only where all logits are equal.
TEST(UpcycleRouter, WithoutRenormalisingTheScaleMakesUpForEqualLogits) {
  Dense dense(tiny_of("qwen3"));
  const UpcycleOptions plain{.experts = 8, .experts_per_token = 2, .router_std = 0, .router = {{"renormalise", false}}};
  const auto equal = dense.upcycle(plain, "equal");
  EXPECT_EQ(equal.scale, 4);
  EXPECT_LE(equal.comparison->relative(), 1e-5);
  UpcycleOptions spread = plain;
  spread.router_std = 0.3;
  const auto reported = dense.upcycle(spread, "spread");
  EXPECT_GT(reported.comparison->relative(), 1e-4);
  UpcycleOptions none = plain;
  none.scaling = UpcycleOptions::Scaling::none;
  EXPECT_GT(dense.upcycle(none, "none").comparison->relative(), 1e-3);
  // Megatron's cube root also scales what goes through the activation, which SiLU is not linear in.
  UpcycleOptions megatron = plain;
  megatron.scaling = UpcycleOptions::Scaling::megatron;
  const auto cubed = dense.upcycle(megatron, "cubed");
  EXPECT_GT(cubed.comparison->relative(), 1e-4);
}

TEST(UpcycleScaling, MegatronsRuleIsExactForAnActivationThatScales) {
  Dense dense(tiny_of("llama", {{"attention_bias", nullptr}, {"hidden_act", "relu"}}));
  const auto done = dense.upcycle(
      {.experts = 8, .experts_per_token = 4, .granularity = 4, .scaling = UpcycleOptions::Scaling::megatron});
  EXPECT_LE(done.comparison->relative(), 1e-5);
}

TEST(UpcycleLayers, OthersStayDense) {
  Dense dense(tiny_of("qwen3"));
  const auto done = dense.upcycle({.experts = 4, .experts_per_token = 2, .layers = {false, true, false}});
  EXPECT_LE(done.comparison->relative(), 1e-5);
  const families::Model written = dense.written();
  for (const size_t layer : {0, 1, 2})
    EXPECT_EQ(std::holds_alternative<layers::MoeSpec>(written.decoder->spec().blocks[layer].ffn), layer == 1);
}

TEST(UpcycleOwnType, SaysBiasesAndDenseLayers) {
  Dense dense(tiny_of("llama"));  // with attention biases, which mixtral has not
  const auto done =
      dense.upcycle({.experts = 4, .experts_per_token = 2, .layers = {true, false, true}, .model_type = "coterie"});
  EXPECT_LE(done.comparison->relative(), 1e-5);
  Dense biased(tiny_of("granite"));
  const auto with_biases =
      biased.upcycle({.experts = 6, .experts_per_token = 2, .granularity = 2, .model_type = "coterie"});
  EXPECT_LE(with_biases.comparison->relative(), 1e-5);
}

// Windows in every layer, no biases: qwen2_moe's config can say that too.
TEST(UpcycleOwnType, AnyFamilyThatCanSayItMayBeAskedFor) {
  Dense dense(tiny_of("mistral"));
  const auto done = dense.upcycle({.experts = 4, .experts_per_token = 2, .model_type = "qwen2_moe"});
  EXPECT_EQ(done.model_type, "qwen2_moe");
  EXPECT_LE(done.comparison->relative(), 1e-5);
}

TEST(UpcycleFiles, ShardsAndDtypesAndTheReceipt) {
  Dense dense(tiny_of("mistral"));
  dense.upcycle({.experts = 4, .experts_per_token = 2, .dtype = tensor::DType::bf16, .shard_bytes = 20000});
  EXPECT_TRUE(fs::exists(dense.folder / "out/model.safetensors.index.json"));
  const families::Model written = dense.written();
  for (const checkpoint::TensorInfo& t : written.source->tensors())
    EXPECT_TRUE(t.dtype == tensor::DType::bf16 || t.name.find("norm") != std::string::npos) << t.name;
  const Json receipt = base::read_json(dense.folder / "out/receipt.json");
  EXPECT_GT(receipt["step_0"]["relative_difference"].get<double>(), 1e-5);  // of rounding to bf16
  EXPECT_LT(receipt["step_0"]["relative_difference"].get<double>(), 3e-2);
  EXPECT_EQ(base::read_json(dense.folder / "out/config.json")["torch_dtype"], "bfloat16");
}

TEST(UpcycleFiles, AnyThreadsGiveTheSameBytes) {
  Dense dense(tiny_of("qwen3"));
  const auto bytes = [&](int threads, const std::string& name) {
    threads::Pool pool(threads);
    ops::Context context{pool, kernels::by_name("scalar"), dense.arena, ops::Precision::f32};
    surgery::upcycle(context, dense.model, dense.folder / name,
                     {.experts = 4, .experts_per_token = 2, .noise = 0.1, .reinit = 0.3, .check = false});
    std::ifstream file(dense.folder / name / "model.safetensors", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  };
  EXPECT_EQ(bytes(1, "one"), bytes(3, "three"));
}

TEST(UpcycleRefuses, WhatTheMixtureTypeCannotSay) {
  const auto refused = [](const Json& config, UpcycleOptions options, ErrorKind kind,
                          std::initializer_list<std::string_view> words) {
    Dense dense(config);
    if (options.experts == 8) options.experts = 4;
    expect_error(kind, words, [&] { dense.upcycle(options); });
    EXPECT_FALSE(fs::exists(dense.folder / "out"));
    EXPECT_EQ(std::distance(fs::directory_iterator(dense.folder.path()), fs::directory_iterator()), 1);
  };
  const auto no = ErrorKind::unsupported, bad = ErrorKind::bad_input;
  refused(tiny_of("llama"), {}, no, {"mixtral", "bias of the queries", "`model_type` coterie"});
  refused(tiny_of("mistral"), {.layers = {true, true, false}}, no, {"mixtral", "kind of FFN"});
  refused(tiny_of("mistral"), {.shared = UpcycleOptions::Shared::copy, .model_type = "mixtral"}, no,
          {"mixtral", "shared expert"});
  refused(tiny_of("mistral"), {.router = {{"renormalise", false}}}, no, {"mixtral", "renormalising"});
  refused(tiny_of("mistral"), {.router = {{"noise", true}}}, no, {"mixtral", "noise"});
  refused(tiny_of("mistral"), {.model_type = "olmoe"}, no, {"olmoe", "mixtral"});
  refused(tiny_of("qwen3"), {.model_type = "mixtral"}, no, {"norm of queries and keys"});
  refused(tiny_of("granite"), {}, no, {"granitemoe", "biases of the experts"});
  refused(tiny_of("gemma2"), {.model_type = "mixtral"}, no, {"mixtral"});
  refused(tiny_of("mixtral"), {}, no, {"already has experts"});
  refused(tiny_of("mamba"), {}, bad, {"upcycle.layers"});
  refused(tiny_of("mistral"), {.experts_per_token = 5}, bad, {"upcycle.experts_per_token", "5"});
  refused(tiny_of("mistral"), {.granularity = 3}, bad, {"upcycle.granularity", "3"});
  refused(tiny_of("mistral"), {.experts = 10, .granularity = 5}, bad, {"upcycle.granularity", "64 hidden units"});
  refused(tiny_of("mistral"), {.router = {{"renormalize", false}}}, bad, {"renormalize", "renormalise"});
  refused(tiny_of("mistral"), {.router = {{"experts", 4}}}, bad, {"experts"});
  refused(tiny_of("mistral"), {.reinit = 1.5}, bad, {"upcycle.reinit"});
}

TEST(UpcycleRefuses, ToWriteOverAnythingAndToLeaveHalfAModel) {
  Dense dense(tiny_of("mistral"));
  dense.folder.write("there/file", "");
  expect_error(ErrorKind::bad_input, {"there"}, [&] { dense.upcycle({.experts = 4}, "there"); });
  expect_error(ErrorKind::io, {"file"}, [&] { dense.upcycle({.experts = 4}, "there/file/out"); });
  int64_t calls = 0;
  UpcycleOptions stopped{.experts = 4};
  stopped.on_progress = [&](std::string_view, int64_t, int64_t) {
    if (++calls == 20) throw base::Error(ErrorKind::interrupted, "", "stop");
  };
  expect_error(ErrorKind::interrupted, {"stop"}, [&] { dense.upcycle(stopped); });
  EXPECT_EQ(std::distance(fs::directory_iterator(dense.folder.path()), fs::directory_iterator()), 2);
}

}  // namespace
}  // namespace coterie::laws
