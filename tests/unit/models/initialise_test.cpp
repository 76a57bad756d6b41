#include "models/initialise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "families/family.h"
#include "models/blank_decoder.h"
#include "tiny_model.h"

namespace coterie::models {
namespace {

struct Drawn {
  explicit Drawn(const std::string& family, const InitialWeights& init = {}, uint64_t seed = 3, base::Json changes = {})
      : spec(families::read_config(changed(tiny::configs().at(family), changes), "tiny", true)),
        decoder(blank_decoder(spec)),
        parameters(*decoder) {
    initialise(parameters, spec, init, seed);
  }
  static base::Json changed(base::Json config, const base::Json& changes) {
    if (!changes.is_null()) config.update(changes);
    return config;
  }
  const Parameter& at(const std::string& path) const {
    for (const Parameter& p : parameters.list())
      if (p.path == path) return p;
    throw std::runtime_error(path);
  }
  std::vector<float> values(const std::string& path) const {
    const Parameter& p = at(path);
    return {p.values, p.values + p.count};
  }
  double deviation(const std::string& path) const {
    double sum = 0;
    for (const float v : values(path)) sum += static_cast<double>(v) * static_cast<double>(v);
    return std::sqrt(sum / static_cast<double>(at(path).count));
  }
  double largest(const std::string& path) const {
    double most = 0;
    for (const float v : values(path)) most = std::max(most, std::fabs(static_cast<double>(v)));
    return most;
  }

  ModelSpec spec;
  std::unique_ptr<Decoder> decoder;
  Parameters parameters;
};

// Relative error of a deviation estimated from n values: 1 / √(2 n), four of them.
double tolerance(const Drawn& drawn, const std::string& path) {
  return 4 / std::sqrt(2 * static_cast<double>(drawn.at(path).count));
}

TEST(Initialise, NormalScalesWhatEndsInTheResidualStream) {
  const Drawn drawn("qwen2_moe", {.std = 0.05});
  const double residual = 0.05 / std::sqrt(2.0 * 3);
  const std::pair<const char*, double> expected[] = {
      {"embedding", 0.05},
      {"head", 0.05},
      {"blocks.0.attention.q", 0.05},
      {"blocks.0.attention.o", residual},
      {"blocks.0.ffn.up", 0.05},
      {"blocks.0.ffn.down", residual},
      {"blocks.1.moe.router", 0.05},
      {"blocks.1.moe.experts.gate", 0.05},
      {"blocks.1.moe.experts.down", residual},
      {"blocks.1.moe.shared.down", residual},
  };
  for (const auto& [path, deviation] : expected)
    EXPECT_NEAR(drawn.deviation(path) / deviation, 1, tolerance(drawn, path)) << path;
  for (const float norm : drawn.values("blocks.0.mixer_norm")) EXPECT_EQ(norm, 1);
  for (const float bias : drawn.values("blocks.0.attention.q.bias")) EXPECT_EQ(bias, 0);

  const Drawn unscaled("qwen2_moe", {.std = 0.05, .scale_residual = false});
  EXPECT_NEAR(unscaled.deviation("blocks.0.attention.o") / 0.05, 1, tolerance(unscaled, "blocks.0.attention.o"));
}

TEST(Initialise, KaimingGoesByTheInputsOfEachMatrixAndOfEachExpert) {
  const Drawn drawn("gpt_oss", {.kind = InitialWeights::Kind::kaiming});
  const double d = 32, f = 64;  // D, F
  const std::pair<const char*, double> expected[] = {
      {"embedding", 1},
      {"blocks.0.attention.q", std::sqrt(2 / d)},
      {"blocks.0.attention.o", std::sqrt(2 / (4 * 16.0))},
      {"blocks.0.moe.router", std::sqrt(2 / d)},
      {"blocks.0.moe.experts.up", std::sqrt(2 / d)},
      {"blocks.0.moe.experts.down", std::sqrt(2 / f)},
  };
  for (const auto& [path, deviation] : expected)
    EXPECT_NEAR(drawn.deviation(path) / deviation, 1, tolerance(drawn, path)) << path;
  const std::pair<const char*, double> bounds[] = {{"blocks.0.attention.q.bias", 1 / std::sqrt(d)},
                                                   {"blocks.0.moe.router.bias", 1 / std::sqrt(d)},
                                                   {"blocks.0.moe.experts.down.bias", 1 / std::sqrt(f)}};
  for (const auto& [path, bound] : bounds) {
    EXPECT_LE(drawn.largest(path), bound) << path;
    EXPECT_GT(drawn.largest(path), 0.5 * bound) << path;
  }
  EXPECT_EQ(drawn.largest("blocks.0.attention.sinks"), 0);
}

TEST(Initialise, BiasesOfNormsAndOfSelectionAreZeroAndGemmasNormsToo) {
  const Drawn phimoe("phimoe", {.kind = InitialWeights::Kind::kaiming});
  EXPECT_EQ(phimoe.largest("final_norm.bias"), 0);
  for (const float norm : phimoe.values("final_norm")) EXPECT_EQ(norm, 1);
  EXPECT_EQ(Drawn("deepseek_v3").largest("blocks.1.moe.router.selection_bias"), 0);
  EXPECT_EQ(Drawn("gemma2").largest("blocks.0.mixer_norm"), 0);  // 1 + w
}

TEST(Initialise, StateSpaceMixersBeginAsTheirAuthorsHaveThem) {
  const Drawn drawn("mamba");
  for (int64_t i = 0; const float a_log : drawn.values("blocks.0.mamba.a_log"))
    EXPECT_FLOAT_EQ(a_log, std::log(static_cast<float>(i++ % 5 + 1)));
  for (const float d : drawn.values("blocks.0.mamba.d")) EXPECT_EQ(d, 1);
  for (const float bias : drawn.values("blocks.0.mamba.dt.bias")) {
    const double step = std::log1p(std::exp(static_cast<double>(bias)));
    EXPECT_GE(step, 0.99e-3);
    EXPECT_LE(step, 1.01e-1);
  }
  EXPECT_LE(drawn.largest("blocks.0.mamba.conv"), 0.5);  // 4 taps
  EXPECT_GT(drawn.largest("blocks.0.mamba.conv"), 0.4);
  EXPECT_LE(drawn.largest("blocks.0.mamba.dt"), 1 / std::sqrt(3.0));
  EXPECT_NEAR(drawn.deviation("blocks.0.mamba.out") / (0.02 / std::sqrt(2.0 * 3)), 1,
              tolerance(drawn, "blocks.0.mamba.out"));
  const Drawn second("mamba2");
  for (const float a_log : second.values("blocks.0.mamba2.a_log")) {
    EXPECT_GE(a_log, 0);
    EXPECT_LE(a_log, std::log(16.0f));
  }
}

TEST(Initialise, ATensorsNumbersDependOnSeedAndPathAlone) {
  const Drawn three("mixtral"), again("mixtral"), other("mixtral", {}, 4);
  const Drawn one("mixtral", {.scale_residual = false}, 3, {{"num_hidden_layers", 1}});
  const std::string path = "blocks.0.moe.experts.up";
  EXPECT_EQ(three.values(path), again.values(path));
  EXPECT_EQ(three.values(path), one.values(path));
  EXPECT_NE(three.values(path), other.values(path));
  EXPECT_NE(three.values(path), three.values("blocks.1.moe.experts.up"));
  EXPECT_NE(three.values(path), three.values("blocks.0.moe.experts.gate"));
}

}  // namespace
}  // namespace coterie::models
