#include "laws/models/bench.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/rng.h"
#include "families/family.h"
#include "quant/codec.h"

namespace coterie::laws {

namespace {
// RapidCheck's 100 draws for each of 48 cases would take minutes. RC_PARAMS of the caller wins.
const bool kFewDraws = ::setenv("RC_PARAMS", "max_success=10 verbose_progress=0", 0) == 0;
}  // namespace

namespace {
struct Chosen {
  Case setting;
  bool by_default;
};
std::vector<Chosen> choices() {
  EXPECT_TRUE(kFewDraws);
  std::vector<kernels::Candidate> sets;
  // Rows of these models are too short for the formats that AMX multiplies; RepackedWeights and
  // InstructionSets.TilesChangeNoBitOfAModel have a model of 256 columns.
  for (const kernels::Candidate& candidate : kernels::candidates())
    if (candidate.table->isa != "amx") sets.push_back(candidate);
  const auto usable = std::count_if(sets.begin(), sets.end(), [](const auto& each) { return each.usable; });
  std::vector<Chosen> result;
  int64_t family_number = 0;
  for (const auto& [family, config] : tiny::configs()) {
    // The precisions alternate along the instruction sets that can run, with the next family the other way round.
    int64_t turn = family_number++;
    for (const kernels::Candidate& candidate : sets) {
      const std::string isa(candidate.table->isa);
      const bool f32_first = turn % 2 == 0, both = usable < 2;
      if (candidate.usable) ++turn;
      result.push_back({{family, isa, ops::Precision::f32, tensor::DType::f32}, both || f32_first});
      result.push_back({{family, isa, ops::Precision::fast, tensor::DType::f16}, both || !f32_first});
      if (isa == "avx2") result.push_back({{family, isa, ops::Precision::fast, tensor::DType::q8_0}, true});
    }
  }
  return result;
}
std::vector<Case> those(bool by_default) {
  std::vector<Case> result;
  for (const Chosen& chosen : choices())
    if (chosen.by_default == by_default) result.push_back(chosen.setting);
  return result;
}
}  // namespace

std::vector<Case> cases() { return those(true); }
std::vector<Case> other_cases() { return those(false); }
std::vector<Case> all_cases() {
  std::vector<Case> result;
  for (const Chosen& chosen : choices()) result.push_back(chosen.setting);
  return result;
}

std::vector<Case> with_experts(std::vector<Case> all) {
  std::erase_if(all, [](const Case& c) {
    const models::ModelSpec spec = families::read_config(tiny::configs().at(c.family), "law", false);
    for (const models::BlockSpec& block : spec.blocks)
      if (std::holds_alternative<layers::MoeSpec>(block.ffn)) return false;
    return true;
  });
  return all;
}

std::string name_of(const testing::TestParamInfo<Case>& info) {
  return info.param.family + "_" + info.param.isa + (info.param.precision == ops::Precision::f32 ? "_f32" : "_fast") +
         (info.param.cache == tensor::DType::q8_0 ? "_q8cache" : "");
}

tiny::Model quantised(const models::ModelSpec& spec, std::vector<checkpoint::MemoryTensor> tensors,
                      tensor::DType dtype) {
  for (checkpoint::MemoryTensor& t : tensors) {
    // Routers are read as they are, the tables of a scan are floats, and a row must be whole blocks.
    const bool router = t.name.ends_with(".gate.weight") || t.name.find("shared_expert_gate") != std::string::npos ||
                        t.name.find(".router") != std::string::npos;
    const bool blocks = t.shape.size() == 2 && t.shape[1] % tensor::info(dtype).block_values == 0;
    // Of experts whose values lie in another order blocks cannot be made.
    if (t.name.ends_with("mlp.w2")) continue;
    const bool table =
        t.name.ends_with(".A_log") || t.name.ends_with(".D") || t.name.ends_with("_bias") || t.name.ends_with(".bias");
    if (!blocks || router || table) continue;
    std::vector<std::byte> bytes;
    for (int64_t r = 0; r < t.shape[0]; ++r) {
      std::vector<std::byte> row(static_cast<size_t>(tensor::row_bytes(dtype, t.shape[1])));
      const auto* values = reinterpret_cast<const float*>(t.bytes.data()) + r * t.shape[1];
      quant::encode(dtype, values, row.data(), t.shape[1]);
      bytes.insert(bytes.end(), row.begin(), row.end());
    }
    t.dtype = dtype, t.bytes = std::move(bytes);
  }
  return tiny::bind(spec, std::move(tensors));
}

tiny::Model model_of(const Case& c, uint64_t seed) {
  const models::ModelSpec spec = families::read_config(tiny::configs().at(c.family), "tiny", true);
  if (c.precision == ops::Precision::fast) return quantised(spec, tiny::weights(spec, seed), tensor::DType::q8_0);
  return tiny::bind(spec, tiny::weights(spec, seed));
}

std::vector<float> Runner::step(std::span<const std::span<const int32_t>> ids,
                                std::span<layers::ResidentState* const> states) {
  ops::Context context{pool, kernels, arena, precision};
  std::vector<models::SequenceStep> steps;
  for (size_t i = 0; i < ids.size(); ++i) {
    states[i]->reserve(static_cast<int64_t>(ids[i].size()));
    steps.push_back({.ids = ids[i],
                     .state = states[i],
                     .logits = models::SequenceStep::Logits::all,
                     .random_key = static_cast<uint64_t>(i) + 1,
                     .length = 0,
                     .routers = i == 0 ? hook : nullptr});
  }
  const tensor::Matrix logits = decoder.forward(context, steps, {.observer = observer, .experts = experts});
  for (size_t i = 0; i < ids.size(); ++i) states[i]->advance(static_cast<int64_t>(ids[i].size()));
  std::vector<float> result(logits.data, logits.data + logits.rows * logits.cols);
  arena.reset();
  return result;
}

std::vector<float> Runner::pieces(std::span<const int32_t> ids, std::span<const int64_t> sizes) {
  layers::ResidentState sequence = state();
  layers::ResidentState* states[] = {&sequence};
  std::vector<float> logits;
  for (const int64_t size : sizes) {
    const std::span<const int32_t> piece[] = {
        ids.subspan(static_cast<size_t>(sequence.length()), static_cast<size_t>(size))};
    const std::vector<float> part = step(piece, states);
    logits.insert(logits.end(), part.begin(), part.end());
  }
  return logits;
}

std::vector<float> Runner::whole(std::span<const int32_t> ids) {
  const int64_t all[] = {static_cast<int64_t>(ids.size())};
  return pieces(ids, all);
}

std::vector<int32_t> some_ids(int64_t count, int64_t vocabulary, uint64_t seed) {
  base::Rng rng(seed, 77);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(rng.below(static_cast<uint32_t>(vocabulary))));
  return ids;
}

void expect_same_bits(std::span<const float> a, std::span<const float> b, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(std::isfinite(a[i])) << what << ": value " << i << " is " << a[i];
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(float)), 0)
        << what << ": value " << i << ": " << a[i] << " and " << b[i];
  }
}

void expect_close(std::span<const float> a, std::span<const float> b, double tolerance, const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  double squares = 0, worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_TRUE(std::isfinite(a[i])) << what;
    squares += static_cast<double>(b[i]) * b[i];
    worst = std::max(worst, std::abs(static_cast<double>(a[i]) - b[i]));
  }
  EXPECT_LE(worst, tolerance * std::sqrt(squares / static_cast<double>(b.size()))) << what;
}

}  // namespace coterie::laws
