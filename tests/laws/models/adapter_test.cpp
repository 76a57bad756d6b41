#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/rng.h"
#include "laws/models/bench.h"
#include "models/adapter.h"
#include "models/families/family.h"
#include "models/parameters.h"

// Adapters of every family: at first they change no bit, they have the gradients of finite differences, over weights in
// blocks too, a step changes them and nothing else, their count is a closed form, and their files read back.
namespace coterie::laws {
namespace {

namespace fs = std::filesystem;
using models::Adapter;
using models::AdapterModule;
using models::LoraSpec;
using models::Parameter;
using models::Parameters;

/// Which experts took part: a step across a choice has no derivative. As in gradient_test.cpp.
class Plans : public layers::Tap {
 public:
  void routed(const layers::Routed& r) override {
    seen.push_back(r.plan.slot_token), seen.push_back(r.plan.expert_offset);
    const int64_t k = std::ssize(r.chosen) / std::max<int64_t>(r.logits.rows, 1);
    for (int64_t i = 0; near > 0 && i < std::ssize(r.chosen); ++i)
      for (int64_t e = 0; e < r.logits.cols; ++e) {
        const float* const row = r.logits.row(i / k);
        const float top = row[r.chosen[static_cast<size_t>(i)]];
        seen.back().push_back((top - row[e]) / std::max(std::abs(row[e]), top) > 2 * near);
      }
  }
  float near = 0;  // SparseMixer's weights jump where an expert comes near the best
  std::vector<std::vector<int32_t>> seen;
};

class AdapterLaw : public testing::TestWithParam<std::string> {
 protected:
  AdapterLaw() : folder(fs::temp_directory_path() / ("coterie-adapter-" + std::to_string(::getpid()) + GetParam())) {
    fs::create_directories(folder);
  }
  ~AdapterLaw() override { fs::remove_all(folder); }

  static tiny::Model plain() { return tiny::make(GetParam()); }
  // Where rows are whole blocks.
  static tiny::Model in_blocks() {
    const models::ModelSpec spec = models::read_config(tiny::configs().at(GetParam()), "tiny", true);
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
    explicit Loss(const models::Decoder& of) : decoder(of) {
      for (uint64_t i = 0; i < 2; ++i)
        ids.push_back(some_ids(11 + 4 * static_cast<int64_t>(i), of.spec().vocabulary, 20 + i));
      rows.assign(ids.begin(), ids.end());
      for (const models::BlockSpec& block : of.spec().blocks)
        if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
          if (moe->router.selection == layers::RouterSpec::Selection::sparsemixer) plans.near = moe->router.near_best;
    }
    double value() {
      plans.seen.clear();
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
    adapter.lay_over(*model.decoder);
    Parameters parameters(adapter);
    Loss loss(*model.decoder);
    loss.gradients(parameters);
    loss.value();
    const std::vector<std::vector<int32_t>> chosen = loss.plans.seen;
    bool clips = false;
    for (const models::BlockSpec& block : model.decoder->spec().blocks) {
      const layers::AttentionSpec* attention = models::attention_of(model.decoder->spec(), block);
      clips = clips || (attention && attention->clip_qkv);
    }
    int64_t compared = 0;
    for (const Parameter& p : parameters.list()) {
      SCOPED_TRACE(p.path);
      double norm = 0;
      for (int64_t i = 0; i < p.count; ++i) norm += std::pow(static_cast<double>(p.gradient[i]), 2);
      norm = std::sqrt(norm);
      ASSERT_GT(norm, 0) << "no gradient";
      const std::vector<float> values(p.values, p.values + p.count);
      double best = 1e9;
      bool steady = false;
      // From a step that changes the loss by 4e-2: as it shrinks, what the loss is rounded by outgrows the difference
      // (zamba2, whose gradients of q are 400 long: off by 9e-4, and by 3e-2 at a change of 6e-4; worst of all: 5e-3).
      for (double change = 4e-2; change > 3e-5 && best > 5e-3; change /= 4) {
        const double step = std::min(change / norm, 0.1);
        bool same = true;
        const auto at = [&](double steps) {
          for (size_t i = 0; i < values.size(); ++i)
            p.values[i] = static_cast<float>(static_cast<double>(values[i]) + steps * step * p.gradient[i] / norm);
          const double result = loss.value();  // a magnitude's norm is a constant: not renewed
          same = same && loss.plans.seen == chosen;
          return result;
        };
        const double slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step);
        if (same) best = std::min(best, std::abs(slope - norm) / norm), steady = true;
      }
      std::copy(values.begin(), values.end(), p.values);
      if (!steady) continue;
      ++compared;
      EXPECT_LT(best, clips ? 1e-1 : 1e-2);
    }
    EXPECT_GE(2 * compared, std::ssize(parameters.list()));
  }

  fs::path folder;
};

TEST_P(AdapterLaw, AtFirstChangesNoBit) {
  tiny::Model model = plain();
  const std::vector<float> before = logits(*model.decoder);
  Adapter adapter = Adapter::fresh(*model.decoder, everything(), 1);
  adapter.lay_over(*model.decoder);
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
  for (const AdapterModule& module : models::adapter_modules(*model.decoder))
    if (module.stack == 0) spec.targets.push_back(module.word());
  spec.dora = true;
  const std::vector<float> before = logits(*model.decoder);
  Adapter adapter = Adapter::fresh(*model.decoder, spec, 1);
  adapter.lay_over(*model.decoder);
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
  adapter.lay_over(*model.decoder);
  Parameters parameters(adapter);
  std::vector<std::vector<float>> first;
  for (const Parameter& p : parameters.list()) first.emplace_back(p.values, p.values + p.count);
  Loss loss(*model.decoder);
  const double at_first = loss.value();
  for (int step = 0; step < 2; ++step) {
    loss.gradients(parameters);
    for (const Parameter& p : parameters.list())
      for (int64_t i = 0; i < p.count; ++i) p.values[i] -= 0.01f * p.gradient[i];
  }
  EXPECT_LT(loss.value(), at_first);
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
  int64_t experts = 0;
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
      experts += moe->router.experts *
                 (r * (spec.width + (moe->gated ? 2 : 1) * moe->hidden) + r * (moe->hidden + spec.width));
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
  adapter.lay_over(*model.decoder);
  adapter.save(folder, "tiny");
  Adapter read = Adapter::load(*other.decoder, folder);
  read.lay_over(*other.decoder);
  expect_same_bits(logits(*other.decoder), logits(*model.decoder), "read back");
  fs::create_directories(folder / "again");
  read.save(folder / "again", "tiny");
  for (const char* file : {"adapter_config.json", "adapter_model.safetensors"})
    EXPECT_EQ(contents(folder / file), contents(folder / "again" / file)) << file;
}

std::vector<std::string> families() {
  std::vector<std::string> result;
  for (const auto& [name, config] : tiny::configs()) {
    const tiny::Model model = tiny::make(name);
    if (!models::adapter_modules(*model.decoder).empty()) result.push_back(name);
  }
  return result;
}

INSTANTIATE_TEST_SUITE_P(Families, AdapterLaw, testing::ValuesIn(families()), [](const auto& of) {
  std::string name = of.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace coterie::laws
