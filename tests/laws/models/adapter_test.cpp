#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/json.h"
#include "base/rng.h"
#include "families/adapter/adapter.h"
#include "families/family.h"
#include "laws/models/bench.h"
#include "laws/models/differences.h"
#include "models/blank_decoder.h"
#include "models/loss.h"
#include "models/parameters.h"
#include "support/expect_error.h"

// Adapters of every family: at first they change no bit, they have the gradients of finite differences, over weights in
// blocks too, a step changes them and nothing else, their count is a closed form, and their files read back.
namespace coterie::laws {
namespace {

namespace fs = std::filesystem;
using families::Adapter;
using families::AdapterModule;
using families::LoraSpec;
using models::Parameter;
using models::Parameters;

class AdapterLaw : public testing::TestWithParam<std::string> {
 protected:
  AdapterLaw() : folder(fs::temp_directory_path() / ("coterie-adapter-" + std::to_string(::getpid()) + GetParam())) {
    fs::create_directories(folder);
  }
  ~AdapterLaw() override { fs::remove_all(folder); }

  static tiny::Model plain() { return tiny::make(GetParam()); }
  // Where rows are whole blocks.
  static tiny::Model in_blocks() {
    const models::ModelSpec spec = families::read_config(tiny::configs().at(GetParam()), "tiny", true);
    return quantised(spec, tiny::weights(spec, 1), tensor::DType::q8_0);
  }
  static LoraSpec everything() {
    LoraSpec spec;
    spec.targets = {"all"}, spec.rank = 3, spec.alpha = 5;
    return spec;
  }
  static void disturb(Adapter& adapter) {
    base::Rng rng(11);
    for (const Parameter& p : adapter.parameters())
      if (p.path.ends_with(".lora_b"))
        for (int64_t i = 0; i < p.count; ++i) p.values[i] = 0.3f * rng.normal();
    adapter.renew();
  }
  static std::vector<float> logits(const models::Decoder& decoder) {
    Case c{GetParam(), std::string(kernels::select().isa)};
    Runner runner(c, decoder);
    return runner.whole(some_ids(23, decoder.spec().vocabulary, 5));
  }

  struct Loss {
    explicit Loss(const models::Decoder& of) : decoder(of), plans(of.spec()) {
      for (uint64_t i = 0; i < 2; ++i)
        ids.push_back(some_ids(11 + 4 * static_cast<int64_t>(i), of.spec().vocabulary, 20 + i));
      rows.assign(ids.begin(), ids.end());
    }
    double value() {
      plans.clear();
      arena.reset();
      ops::Context context{pool, kernels::select(), arena, ops::Precision::f32};
      const models::BatchLoss loss = models::batch_loss(context, decoder, rows, &plans);
      return loss.cross_entropy + loss.balance;
    }
    void gradients(Parameters& parameters) {
      tensor::Arena of_tape;
      ops::Context context{pool, kernels::select(), of_tape, ops::Precision::f32};
      ops::Tape tape(of_tape, parameters.gradients());
      parameters.clear_gradients();
      models::add_gradients(context, tape, decoder, rows);
    }
    const models::Decoder& decoder;
    std::vector<std::vector<int32_t>> ids;
    std::vector<std::span<const int32_t>> rows;
    threads::Pool pool{2};
    tensor::Arena arena;
    Plans plans;
  };

  void expect_differences(tiny::Model& model, const LoraSpec& spec) {
    Adapter adapter = Adapter::fresh(*model.decoder, spec, 1);
    disturb(adapter);
    adapter.attach_to(*model.decoder);
    Parameters parameters(adapter.parameters());
    Loss loss(*model.decoder);
    loss.gradients(parameters);
    loss.value();
    const Plans chosen = loss.plans;
    int64_t compared = 0;
    for (const Parameter& p : parameters.list()) {
      SCOPED_TRACE(p.path);
      const double norm = gradient_norm(p);
      ASSERT_GT(norm, 0) << "no gradient";
      const auto value = [&]() -> std::optional<double> {
        const double result = loss.value();  // a magnitude's norm is a constant: not renewed
        if (!(loss.plans == chosen)) return std::nullopt;
        return result;
      };
      const std::optional<double> error = difference_error(p, own_direction(p, norm), norm, norm, value);
      if (!error) continue;
      ++compared;
      EXPECT_LT(*error, clips(model.decoder->spec()) ? 1e-1 : 1e-2);
    }
    EXPECT_GE(2 * compared, std::ssize(parameters.list()));
  }

  fs::path folder;
};

TEST_P(AdapterLaw, AtFirstChangesNoBit) {
  tiny::Model model = plain();
  const std::vector<float> before = logits(*model.decoder);
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  adapter.attach_to(*model.decoder);
  expect_same_bits(logits(*model.decoder), before, "B is zero");
  disturb(adapter);
  EXPECT_NE(logits(*model.decoder), before);
}

TEST_P(AdapterLaw, HasTheGradientsOfFiniteDifferences) {
  tiny::Model model = plain();
  expect_differences(model, everything());
}

TEST_P(AdapterLaw, WithMagnitudesTooAndAtFirstTheyChangeNoBit) {
  tiny::Model model = plain();
  LoraSpec spec = everything();
  spec.targets.clear();
  for (const AdapterModule& module : families::adapter_modules(*model.decoder))
    if (module.stack == 0 && module.kind != AdapterModule::Kind::parameter) spec.targets.push_back(module.word());
  spec.dora = true;
  const std::vector<float> before = logits(*model.decoder);
  Adapter adapter = Adapter::fresh(*model.decoder, spec, 1);
  adapter.attach_to(*model.decoder);
  expect_same_bits(logits(*model.decoder), before, "the magnitudes are the norms");
  tiny::Model other = plain();
  expect_differences(other, spec);
}

TEST_P(AdapterLaw, OverBlocksHasGradientsAndLeavesTheirBytes) {
  tiny::Model model = in_blocks();
  std::vector<std::vector<std::byte>> before;
  for (const checkpoint::TensorInfo& tensor : model.source->tensors())
    before.emplace_back(tensor.bytes.begin(), tensor.bytes.end());
  expect_differences(model, everything());
  for (size_t i = 0; i < before.size(); ++i) {
    const checkpoint::TensorInfo& tensor = model.source->tensors()[i];
    EXPECT_TRUE(std::equal(before[i].begin(), before[i].end(), tensor.bytes.begin(), tensor.bytes.end()))
        << tensor.name;
  }
}

// Against the gradient; B begins at zero, and with it A's gradient, so it takes two.
TEST_P(AdapterLaw, TwoStepsChangeEveryMatrixOfItAndNothingElse) {
  tiny::Model model = plain();
  std::vector<std::vector<std::byte>> before;
  for (const checkpoint::TensorInfo& tensor : model.source->tensors())
    before.emplace_back(tensor.bytes.begin(), tensor.bytes.end());
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  adapter.attach_to(*model.decoder);
  Parameters parameters(adapter.parameters());
  std::vector<std::vector<float>> first;
  for (const Parameter& p : parameters.list()) first.emplace_back(p.values, p.values + p.count);
  Loss loss(*model.decoder);
  for (int step = 0; step < 2; ++step) {
    loss.gradients(parameters);
    for (const Parameter& p : parameters.list())
      for (int64_t i = 0; i < p.count; ++i) p.values[i] -= 0.01f * p.gradient[i];
  }
  for (size_t i = 0; i < first.size(); ++i) {
    const Parameter& p = parameters.list()[i];
    EXPECT_FALSE(std::equal(first[i].begin(), first[i].end(), p.values)) << p.path;
  }
  for (size_t i = 0; i < before.size(); ++i) {
    const checkpoint::TensorInfo& tensor = model.source->tensors()[i];
    EXPECT_TRUE(std::equal(before[i].begin(), before[i].end(), tensor.bytes.begin(), tensor.bytes.end()))
        << tensor.name;
  }
}

// A step so short that the loss falls by a thousandth to first order: along a steep gradient a longer one may raise it.
TEST_P(AdapterLaw, AShortStepAgainstTheGradientLowersTheLoss) {
  tiny::Model model = plain();
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  adapter.attach_to(*model.decoder);
  Parameters parameters(adapter.parameters());
  Loss loss(*model.decoder);
  const double at_first = loss.value();
  loss.gradients(parameters);
  double square = 0;
  for (const Parameter& p : parameters.list())
    for (int64_t i = 0; i < p.count; ++i) square += static_cast<double>(p.gradient[i]) * p.gradient[i];
  ASSERT_GT(square, 0);
  const float length = static_cast<float>(1e-3 * at_first / square);
  for (const Parameter& p : parameters.list())
    for (int64_t i = 0; i < p.count; ++i) p.values[i] -= length * p.gradient[i];
  EXPECT_LT(loss.value(), at_first);
}

TEST_P(AdapterLaw, CountsAreTheClosedForm) {
  const tiny::Model model = plain();
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  std::array<int64_t, layers::kPlaces> listed{};
  for (const Parameter& p : adapter.parameters()) listed[static_cast<size_t>(p.place)] += p.count;
  EXPECT_EQ(adapter.counts(), listed);
  EXPECT_EQ(Adapter::counts(*model.decoder, everything()), listed);
  // By hand from the spec: r (inputs + outputs) a matrix; gate and up of an expert as one.
  const models::ModelSpec& spec = model.decoder->spec();
  constexpr int64_t r = 3;
  // LongCat's gates and ups are projections of their own.
  const int64_t joined = GetParam() == "longcat_flash" ? 2 : 1;
  int64_t experts = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) {
      const int64_t width = moe->latent > 0 ? moe->latent : spec.width;
      experts += moe->experts_with_weights() *
                 (r * (joined * width + (moe->gated ? 2 : 1) * moe->hidden) + r * (moe->hidden + width));
    }
  // peft has no adapters for each expert of these two's tensors.
  if (GetParam() == "dbrx" || GetParam() == "jetmoe") experts = 0;
  EXPECT_EQ(listed[static_cast<size_t>(layers::Place::experts)], experts);
}

std::string contents(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST_P(AdapterLaw, FilesReadBackAsTheSame) {
  tiny::Model model = plain(), other = plain();
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  disturb(adapter);
  adapter.attach_to(*model.decoder);
  adapter.save(folder, "tiny");
  Adapter read = Adapter::load(*other.decoder, folder);
  read.attach_to(*other.decoder);
  expect_same_bits(logits(*other.decoder), logits(*model.decoder), "read back");
  fs::create_directories(folder / "again");
  read.save(folder / "again", "tiny");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    EXPECT_EQ(contents(folder / file), contents(folder / "again" / file)) << file;
}

// Numbers of the config that are none, and patterns that do not say what the matrices are.
TEST_P(AdapterLaw, PatternsAreReadAndChecked) {
  tiny::Model model = plain(), other = plain();
  LoraSpec spec = everything();
  Adapter adapter = Adapter::fresh(*model.decoder, spec, 1);
  disturb(adapter);
  adapter.attach_to(*model.decoder);
  adapter.save(folder, "tiny");
  const base::Json whole = base::read_json(folder / "adapter_config.json");
  const auto load = [&](const char* key, const base::Json& value) {
    base::Json config = whole;
    config[key] = value;
    base::write_text(folder / "adapter_config.json", config.dump());
    return Adapter::load(*other.decoder, folder);
  };
  using base::ErrorKind;
  for (const base::Json& bad : {base::Json("8"), base::Json(nullptr), base::Json::array({8})})
    expect_error(ErrorKind::bad_input, {"adapter_config.json", "alpha_pattern", "q_proj", "expected a number"}, [&] {
      load("alpha_pattern", {{"q_proj", bad}});
    });
  for (const base::Json& bad : {base::Json("8"), base::Json(2.5), base::Json(0), base::Json(-1)})
    expect_error(ErrorKind::bad_input, {"adapter_config.json", "rank_pattern", "q_proj", "whole number"}, [&] {
      load("rank_pattern", {{"q_proj", bad}});
    });
  expect_error(ErrorKind::bad_input, {"alpha_pattern", "object"}, [&] { load("alpha_pattern", "q_proj=8"); });
  expect_error(ErrorKind::bad_input, {"rank_pattern", "object"}, [&] { load("rank_pattern", {8}); });
  // The ranks are those that the matrices have.
  expect_error(ErrorKind::bad_input, {"rank_pattern", "has rank 3"}, [&] { load("rank_pattern", {{".*", 5}}); });
  expect_error(ErrorKind::unsupported, {"alpha_pattern", "two of its keys"}, [&] {
    load("alpha_pattern", {{".*", 5}, {".*.", 6}});
  });
  load("rank_pattern", {{".*", 3}});
  // An alpha for all by pattern is that alpha.
  Adapter halved = load("alpha_pattern", {{".*", spec.alpha / 2}});
  halved.attach_to(*other.decoder);
  tiny::Model third = plain();
  base::Json config = whole;
  config["lora_alpha"] = spec.alpha / 2;
  base::write_text(folder / "adapter_config.json", config.dump());
  Adapter plainly = Adapter::load(*third.decoder, folder);
  plainly.attach_to(*third.decoder);
  expect_same_bits(logits(*other.decoder), logits(*third.decoder), "alpha by pattern");
}

std::vector<std::string> families() {
  std::vector<std::string> result;
  for (const auto& [name, config] : tiny::configs()) {
    // Without weights: this list is made before main, and drawing a model of each family takes a second.
    const auto decoder = models::blank_decoder(families::read_config(config, "tiny", true));
    if (!families::adapter_modules(*decoder).empty()) result.push_back(name);
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(Families, AdapterLaw, testing::ValuesIn(families()), [](const auto& of) { return of.param; });

}  // namespace
}  // namespace coterie::laws
