// Layers put one after the other, and the other merges of whole models as recipes say them.
#include <cmath>

#include "laws/surgery/merging.h"
#include "models/account.h"
#include "support/expect_error.h"

namespace coterie::laws {
namespace {

using base::ErrorKind;
using base::Json;

std::string slices(const std::vector<std::string>& sources, const std::string& rest = "") {
  std::string yaml = "merge_method: passthrough\nslices:\n";
  for (const std::string& source : sources) yaml += "  - sources: [{" + source + "}]\n";
  return yaml + rest;
}

TEST(Passthrough, OfAllLayersInOrderIsTheModelForEveryFamily) {
  int64_t families = 0;
  for (const auto& [family, config] : tiny::configs()) {
    Models models;
    models.add("a", with(config, {{"vocab_size", 257}}));
    const models::ModelSpec spec = models.open("a").decoder->spec();
    const auto layers = std::ssize(spec.blocks);
    const std::string yaml =
        layers > 1 ? slices({"model: a, layer_range: [0, 1]", fmt::format("model: a, layer_range: [1, {}]", layers)})
                   : "merge_method: passthrough\nmodels: [{model: a}]\n";
    if (!spec.shared.empty()) {
      expect_error(ErrorKind::unsupported, {"share"}, [&] { models.merge(yaml); });
      continue;
    }
    const surgery::Merged done = models.merge(yaml);
    EXPECT_EQ(done.comparison->largest, 0) << family;
    EXPECT_EQ(done.model_type, spec.family.shown());
    ++families;
  }
  EXPECT_GE(families, 15);
}

TEST(Passthrough, LayersComeFromWhereTheRecipeSays) {
  Three models;
  models.add("deep", tiny_of("qwen3", {{"num_hidden_layers", 5}}), 4);
  const surgery::Merged done = models.merge(
      slices({"model: a, layer_range: [0, 2]", "model: deep, layer_range: [3, 5]", "model: a, layer_range: [1, 2]",
              "model: b, layer_range: [0, 3], parameters: {scale: [{filter: o_proj, value: 0.5}]}"}));
  const Json config = base::read_json(models.folder / "out/config.json");
  EXPECT_EQ(config["num_hidden_layers"], 8);
  const families::Model merged = models.open("out");
  EXPECT_EQ(std::ssize(merged.decoder->spec().blocks), 8);
  EXPECT_EQ(done.parameters, models::account(merged.decoder->spec()).total());
  const std::vector<std::pair<std::string, int>> expected = {{"a", 0}, {"a", 1}, {"deep", 3}, {"deep", 4},
                                                             {"a", 1}, {"b", 0}, {"b", 1},    {"b", 2}};
  const auto name = [](size_t layer, const std::string& what) {
    return fmt::format("model.layers.{}.{}.weight", layer, what);
  };
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto& [model, layer] = expected[i];
    const auto from = static_cast<size_t>(layer);
    for (const std::string what : {"input_layernorm", "mlp.up_proj", "self_attn.q_proj"})
      EXPECT_EQ(models.values("out", name(i, what)), models.values(model, name(from, what))) << i << what;
    std::vector<float> o = models.values(model, name(from, "self_attn.o_proj"));
    if (model == "b")
      for (float& v : o) v *= 0.5f;
    EXPECT_EQ(models.values("out", name(i, "self_attn.o_proj")), o) << i;
  }
  EXPECT_EQ(models.values("out", "model.embed_tokens.weight"), models.values("a", "model.embed_tokens.weight"));
  EXPECT_EQ(models.values("out", "model.norm.weight"), models.values("b", "model.norm.weight"));
  const Json receipt = base::read_json(models.folder / "out/receipt.json");
  EXPECT_EQ(receipt["layers"].size(), 8u);
  EXPECT_EQ(receipt["layers"][3][1], 4);
}

TEST(Passthrough, KindsOfLayersMoveWithThem) {
  Models models;
  models.add("a", tiny_of("gemma2"));
  const models::ModelSpec spec = models.open("a").decoder->spec();
  ASSERT_GE(spec.blocks.size(), 2u);
  const auto window = [](const models::ModelSpec& of, size_t i) {
    return std::get<layers::AttentionSpec>(of.blocks[i].mixer).window;
  };
  ASSERT_NE(window(spec, 0), window(spec, 1));
  const std::string twice = slices({"model: a, layer_range: [0, 1]", "model: a, layer_range: [0, 1]"});
  if (base::read_json(models.folder / "a/config.json").contains("layer_types")) {
    models.merge(twice);
    const models::ModelSpec merged = models.open("out").decoder->spec();
    EXPECT_EQ(window(merged, 0), window(merged, 1));
  } else {
    // Every second layer slides, whatever it was made of.
    expect_error(ErrorKind::unsupported, {"layer 1", "sliding window", "pattern"}, [&] { models.merge(twice); });
    EXPECT_TRUE(models.nothing_was_left());
  }
}

TEST(Passthrough, RefusesByName) {
  Three models;
  models.add("wide", tiny_of("qwen3", {{"intermediate_size", 96}}));
  models.add("other", tiny_of("qwen3"));
  write_bytes_tokenizer(models.folder / "other", "<|stop|>");
  const auto no = ErrorKind::unsupported, bad = ErrorKind::bad_input;
  const auto refused = [&](ErrorKind kind, const std::string& yaml, std::initializer_list<std::string_view> words) {
    expect_error(kind, words, [&] { models.merge(yaml); });
    EXPECT_TRUE(models.nothing_was_left()) << yaml;
  };
  refused(bad, slices({"model: a, layer_range: [0, 9]"}), {"layer_range [0, 9]", "3 layers"});
  refused(bad, slices({"model: a, layer_range: [2, 1]"}), {"layer_range"});
  refused(bad, slices({"model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]"}), {"2 are given", "slices"});
  refused(no, slices({"model: a, layer_range: [0, 2]", "model: wide, layer_range: [0, 1]"}),
          {"layer 2", "width of the FFN", "96"});
  refused(no, slices({"model: a, layer_range: [0, 2]", "model: other, layer_range: [0, 1]"}), {"tokenizer"});
  refused(bad, slices({"model: a, layer_range: [0, 2]"}, "parameters: {weight: 1}\n"), {"weight", "passthrough"});
}

// --- The other methods by their recipes ------------------------------------------------------------------------------

TEST(MergeRecipes, ModelStockAndNearswapMoveTheBase) {
  Three models;
  models.merge(models_of("model_stock", "base_model: a\n", "{}"), "stock");
  models.merge(models_of("model_stock", "base_model: a\nparameters: {filter_wise: true}\n", "{}"), "rows");
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  const std::vector<float> a = models.values("a", name), b = models.values("b", name), c = models.values("c", name),
                           stock = models.values("stock", name);
  double bb = 0, cc = 0, bc = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double x = static_cast<double>(b[i] - a[i]), y = static_cast<double>(c[i] - a[i]);
    bb += x * x, cc += y * y, bc += x * y;
  }
  const double cosine = bc / std::sqrt(bb * cc), share = 2 * cosine / (1 + cosine);
  for (size_t i = 0; i < a.size(); ++i)
    EXPECT_NEAR(stock[i], share * static_cast<double>(b[i] + c[i]) / 2 + (1 - share) * static_cast<double>(a[i]), 1e-5);
  EXPECT_NE(models.values("rows", name), stock);

  const std::string near = "merge_method: nearswap\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.01}\n";
  models.merge(near, "near");
  const std::vector<float> swapped = models.values("near", name);
  int64_t taken = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double apart = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    const double weight = apart <= 0.01 ? 1 : 0.01 / apart;
    taken += weight == 1;
    EXPECT_NEAR(swapped[i], weight * static_cast<double>(b[i]) + (1 - weight) * static_cast<double>(a[i]), 1e-6);
  }
  EXPECT_GT(taken, 0);
}

TEST(MergeRecipes, BreadcrumbsAndDellaByTheirParameters) {
  Three models;
  const std::string base = "base_model: a\n";
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  const auto kept = [&](const std::string& out) {
    const std::vector<float> a = models.values("a", name), merged = models.values(out, name);
    int64_t count = 0;
    for (size_t i = 0; i < a.size(); ++i) count += a[i] != merged[i];
    return static_cast<double>(count) / static_cast<double>(a.size());
  };
  const std::string one = "models: [{model: b, parameters: {weight: 0.5, density: 0.4, GAMMA}}]\n" + base;
  const auto with_parameter = [&](const std::string& parameter) {
    std::string yaml = one;
    return yaml.replace(yaml.find("GAMMA"), 5, parameter);
  };
  models.merge("merge_method: breadcrumbs\n" + with_parameter("gamma: 0.1"), "crumbs");
  EXPECT_NEAR(kept("crumbs"), 0.4, 0.002);
  models.merge("merge_method: breadcrumbs_ties\n" + with_parameter("gamma: 0.1"), "crumbs_ties");
  models.expect_same("crumbs", "crumbs_ties");  // one model agrees with itself
  models.merge("merge_method: breadcrumbs\n" + with_parameter("gamma: 0.0"), "largest");
  models.merge("merge_method: ties\nparameters: {normalize: false}\n" + with_parameter(""), "ties");
  models.expect_same("largest", "ties");
  surgery::MergeOptions seven, eight;
  seven.seed = 7, eight.seed = 8;
  models.merge("merge_method: della_linear\n" + with_parameter("epsilon: 0.2"), "della", seven);
  models.merge("merge_method: della_linear\n" + with_parameter("epsilon: 0.2"), "again", seven);
  models.merge("merge_method: della_linear\n" + with_parameter("epsilon: 0.2"), "another", eight);
  models.expect_same("della", "again");
  EXPECT_NE(models.values("della", name), models.values("another", name));
  EXPECT_NEAR(kept("della"), 0.4, 0.05);
  // A model that is merged alone and normalised is not made smaller by its weight.
  models.merge("merge_method: della\nparameters: {normalize: false}\n" + with_parameter("epsilon: 0.2"), "elected",
               seven);
  models.expect_same("della", "elected");
}

TEST(MergeRecipes, RefuseWhatTheMethodHasNot) {
  Three models;
  const auto bad = ErrorKind::bad_input;
  const auto refused = [&](const std::string& yaml, std::initializer_list<std::string_view> words) {
    expect_error(bad, words, [&] { models.merge(yaml); });
    EXPECT_TRUE(models.nothing_was_left()) << yaml;
  };
  const std::string base = "base_model: a\n";
  refused(models_of("della", base, "{weight: 1, density: 0.9}"), {"epsilon is 0.15", "0.75 to 1.05"});
  refused(models_of("della", base, "{weight: 1, density: 0.5, gamma: 0.1}"), {"gamma", "della"});
  refused(models_of("breadcrumbs", base, "{weight: 1, density: 0.5, gamma: 1}"), {"gamma is 1"});
  refused(models_of("ties", base, "{weight: 1, epsilon: 0.1}"), {"epsilon", "ties"});
  refused(models_of("model_stock", base, "{weight: 1}"), {"weight", "model_stock"});
  refused("merge_method: model_stock\nmodels: [{model: b}]\n" + base, {"two models", "1 given"});
  refused(models_of("nearswap", base + "parameters: {t: 1}\n", "{}"), {"nearswap", "the recipe has 2"});
  refused("merge_method: nearswap\nmodels: [{model: b}]\n" + base, {"t is not given"});
}

}  // namespace
}  // namespace coterie::laws
