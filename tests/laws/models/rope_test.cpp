// A rotary scaling given at run time is the same one in the model's config.
#include <cmath>

#include "families/family.h"
#include "laws/models/bench.h"
#include "layers/attention/rope.h"
#include "support/expect_error.h"

namespace coterie::laws {
namespace {

using base::ErrorKind;
using base::Json;
using Scaling = layers::RopeSpec::Scaling;

models::ModelSpec read(const Json& config) { return families::read_config(config, "config.json", false); }

// Without any scaling; nothing where the family has no rotary positions that rope_scaling is of.
std::optional<Json> unscaled(const std::string& family) {
  Json config = tiny::configs().at(family);
  config.erase("rope_scaling"), config.erase("rope_parameters"), config.erase("original_max_position_embeddings");
  const models::ModelSpec spec = read(config);
  for (const models::BlockSpec& block : spec.blocks) {
    const layers::RopeSpec* const rope = models::rope_of(spec, block);
    if (!rope) continue;
    // gpt_oss scales where nothing is said.
    if (rope->scaling != Scaling::none) config["rope_scaling"] = {{"rope_type", "default"}};
    return config;
  }
  return {};
}

struct Setting {
  std::string name;
  Json config;  // rope_scaling; its original context is filled in
  models::RopeOptions options;
};

std::vector<Setting> settings() {
  return {{"linear", {{"rope_type", "linear"}, {"factor", 4.0}}, {.scaling = Scaling::linear, .factor = 4}},
          {"linear_by_context", {{"rope_type", "linear"}, {"factor", 3.0}}, {.scaling = Scaling::linear}},
          {"scale_alone", {{"rope_type", "linear"}, {"factor", 2.5}}, {.factor = 2.5}},
          {"dynamic", {{"rope_type", "dynamic"}, {"factor", 2.0}}, {.scaling = Scaling::dynamic, .factor = 2}},
          {"yarn", {{"rope_type", "yarn"}, {"factor", 4.0}}, {.scaling = Scaling::yarn, .factor = 4}},
          {"yarn_betas",
           {{"rope_type", "yarn"},
            {"factor", 4.0},
            {"beta_fast", 8.0},
            {"beta_slow", 2.0},
            {"attention_factor", 0.5 * (0.1 * std::log(4.0) + 1)}},
           {.scaling = Scaling::yarn, .factor = 4, .beta_fast = 8, .beta_slow = 2, .attention_factor = 0.5}},
          {"llama3",
           {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}},
           {.scaling = Scaling::llama3, .factor = 8}}};
}

void expect_same_ropes(const models::ModelSpec& one, const models::ModelSpec& other, const std::string& what) {
  ASSERT_EQ(one.blocks.size(), other.blocks.size());
  for (size_t i = 0; i < one.blocks.size(); ++i) {
    const auto *a = models::rope_of(one, one.blocks[i]), *b = models::rope_of(other, other.blocks[i]);
    ASSERT_EQ(a == nullptr, b == nullptr) << what;
    if (!a) continue;
    for (const int64_t length : {int64_t{0}, 3 * std::max(one.context, other.context)}) {
      EXPECT_EQ(layers::rope_table(*a, length).frequency, layers::rope_table(*b, length).frequency) << what << " " << i;
      EXPECT_EQ(layers::rope_table(*a, length).magnitude, layers::rope_table(*b, length).magnitude) << what << " " << i;
    }
    if (const auto* latent = std::get_if<layers::LatentAttentionSpec>(&one.blocks[i].mixer)) {
      EXPECT_EQ(latent->scale, std::get<layers::LatentAttentionSpec>(other.blocks[i].mixer).scale) << what;
    }
  }
}

TEST(RopeAtRunTime, IsTheSameAsInTheConfig) {
  int64_t families = 0;
  for (const auto& [family, unused] : tiny::configs()) {
    const std::optional<Json> plain = unscaled(family);
    // Phi's configs say longrope or nothing, and those of some others go by kind of layer.
    if (!plain || family.starts_with("phi") || family == "laguna" || family == "mellum" || family == "gemma4_text" ||
        family == "mimo_v2_flash" || family == "step3p5")
      continue;
    ++families;
    const models::ModelSpec trained = read(*plain);
    for (const Setting& setting : settings()) {
      const std::string what = family + " " + setting.name;
      Json config = *plain;
      config["rope_scaling"] = setting.config;
      if (setting.config["rope_type"] == "yarn" || setting.config["rope_type"] == "llama3")
        config["rope_scaling"]["original_max_position_embeddings"] = trained.context;
      if (config.contains("rope_theta")) config["rope_scaling"]["rope_theta"] = config["rope_theta"];
      const models::ModelSpec expected = read(config);
      models::ModelSpec found = trained;
      models::RopeOptions options = setting.options;
      if (setting.name == "linear_by_context") options.context = 3 * trained.context;
      models::apply(options, found);
      expect_same_ropes(found, expected, what);
      EXPECT_EQ(found.context,
                static_cast<int64_t>(setting.config["factor"].get<double>() * static_cast<double>(trained.context)))
          << what;
    }
  }
  EXPECT_GE(families, 15);
}

TEST(RopeAtRunTime, GivesTheSameLogits) {
  for (const std::string family : {"qwen3", "mixtral", "deepseek_v3", "gemma3_text"})
    for (const Setting& setting : settings()) {
      if (setting.name != "yarn" && setting.name != "dynamic") continue;
      Json plain = *unscaled(family);
      plain["max_position_embeddings"] = 24;
      models::ModelSpec spec = read(plain);
      const int64_t length = spec.context + 5;
      Json config = plain;
      config["rope_scaling"] = setting.config;
      models::apply(setting.options, spec);
      const tiny::Model at_run_time = tiny::bind(spec, tiny::weights(spec, 1)),
                        by_config = tiny::bind(read(config), tiny::weights(spec, 1)),
                        unscaled_model = tiny::bind(read(plain), tiny::weights(spec, 1));
      const Case c{family, "scalar"};
      const std::vector<int32_t> ids = some_ids(length, spec.vocabulary, 3);
      const std::vector<float> found = Runner(c, *at_run_time.decoder).whole(ids);
      expect_same_bits(found, Runner(c, *by_config.decoder).whole(ids), family + " " + setting.name);
      EXPECT_NE(found, Runner(c, *unscaled_model.decoder).whole(ids)) << family << " " << setting.name;
    }
}

TEST(RopeAtRunTime, TakesThePlaceOfTheModelsOwn) {
  const Json plain = *unscaled("deepseek_v3");
  const int64_t trained = read(plain).context;
  Json config = plain;
  config["rope_scaling"] = {{"rope_type", "yarn"},
                            {"factor", 4.0},
                            {"mscale", 1.0},
                            {"mscale_all_dim", 0.8},
                            {"original_max_position_embeddings", trained}};
  models::ModelSpec none = read(config);
  models::apply({.scaling = Scaling::none}, none);
  expect_same_ropes(none, read(plain), "none");
  EXPECT_EQ(none.context, trained);
  models::ModelSpec further = read(config);
  models::apply({.factor = 16}, further);
  config["rope_scaling"]["factor"] = 16.0;
  expect_same_ropes(further, read(config), "further");
  EXPECT_EQ(further.context, 16 * trained);
  models::ModelSpec to_length = read(config);
  models::apply({.original_context = trained / 2, .context = 4 * trained}, to_length);
  config["rope_scaling"]["factor"] = 8.0, config["rope_scaling"]["original_max_position_embeddings"] = trained / 2;
  expect_same_ropes(to_length, read(config), "to a length");
}

TEST(RopeAtRunTime, AHigherBaseReachesFurther) {
  const Json plain = *unscaled("qwen3");
  Json config = plain;
  models::ModelSpec spec = read(plain);
  const layers::RopeSpec was = *models::rope_of(spec, spec.blocks[0]);
  const int64_t trained = spec.context;
  config["rope_theta"] = 16 * was.theta;
  models::apply({.base = 16 * was.theta}, spec);
  expect_same_ropes(spec, read(config), "base");
  const auto dims = static_cast<double>(was.dims);
  EXPECT_EQ(spec.context, static_cast<int64_t>(static_cast<double>(trained) * std::pow(16.0, (dims - 2) / dims)));
  models::ModelSpec lower = read(plain);
  models::apply({.base = was.theta / 2}, lower);
  EXPECT_EQ(lower.context, trained);
}

TEST(RopeAtRunTime, SlidingLayersKeepARotaryEmbeddingOfTheirOwn) {
  const models::ModelSpec trained = read(*unscaled("gemma3_text"));
  models::ModelSpec spec = trained;
  models::apply({.factor = 8}, spec);
  int64_t sliding = 0, whole = 0;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto& attention = std::get<layers::AttentionSpec>(spec.blocks[i].mixer);
    const bool same = attention.rope->factor == models::rope_of(trained, trained.blocks[i])->factor;
    EXPECT_EQ(same, attention.window > 0) << i;
    ++(attention.window > 0 ? sliding : whole);
  }
  EXPECT_GT(sliding, 0);
  EXPECT_GT(whole, 0);
}

TEST(RopeAtRunTime, RefusesByName) {
  const auto refused = [](ErrorKind kind, std::initializer_list<std::string_view> words, models::RopeOptions options,
                          const std::string& family = "qwen3") {
    models::ModelSpec spec = read(family == "mamba" ? tiny::configs().at(family) : *unscaled(family));
    expect_error(kind, words, [&] { models::apply(options, spec); });
  };
  const auto bad = ErrorKind::bad_input, no = ErrorKind::unsupported;
  refused(bad, {"rope.factor", "0.5"}, {.scaling = Scaling::linear, .factor = 0.5});
  refused(bad, {"rope.factor", "yarn", "`rope.factor`"}, {.scaling = Scaling::yarn});
  refused(bad, {"rope.factor", "none"}, {.scaling = Scaling::none, .factor = 2});
  refused(bad, {"rope.original_context", "-1"}, {.factor = 2, .original_context = -1});
  refused(bad, {"rope.base", "0"}, {.base = 0});
  refused(bad, {"rope.beta_fast", "linear"}, {.scaling = Scaling::linear, .factor = 2, .beta_fast = 8});
  refused(bad, {"rope.low_freq_factor", "yarn"}, {.scaling = Scaling::yarn, .factor = 2, .low_freq_factor = 1});
  refused(bad, {"rope.high_freq_factor", "equals"}, {.scaling = Scaling::llama3, .factor = 2, .high_freq_factor = 1});
  refused(no, {"rope.scaling", "longrope", "search"}, {.scaling = Scaling::longrope});
  refused(bad, {"mamba", "no rotary positions"}, {.factor = 2}, "mamba");

  // A file whose frequencies are scaled already, as GGUF has Llama 3.1.
  models::ModelSpec divided = read(*unscaled("qwen3"));
  for (models::BlockSpec& block : divided.blocks)
    std::get<layers::AttentionSpec>(block.mixer)
        .rope->divisors.assign(static_cast<size_t>(models::rope_of(divided, block)->dims / 2), 2.0f);
  models::ModelSpec again = divided;
  expect_error(no, {"rope_freqs.weight", "`rope.original_context`"},
               [&] { models::apply({.scaling = Scaling::yarn, .factor = 2}, divided); });
  models::apply({.scaling = Scaling::yarn, .factor = 2, .original_context = 16}, again);
  EXPECT_TRUE(models::rope_of(again, again.blocks[0])->divisors.empty());
  EXPECT_EQ(again.context, 32);
}

}  // namespace
}  // namespace coterie::laws
