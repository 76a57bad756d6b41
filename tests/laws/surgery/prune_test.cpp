#include "surgery/prune/prune.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "laws/surgery/saved.h"

// Pruning: what matters by REAP's formula, that a dead expert is missed by nobody, that bytes stay.
namespace coterie::laws {
namespace {

using surgery::ExpertSaliency;
using surgery::KeptExperts;
using tensor::DType;

bool has_experts(const models::ModelSpec& spec) {
  return std::any_of(spec.blocks.begin(), spec.blocks.end(), [](const models::BlockSpec& block) {
    const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn);
    return moe && moe->router.selection != layers::RouterSpec::Selection::soft;
  });
}

const layers::MoeSpec& moe_of(const models::ModelSpec& spec, int64_t layer) {
  return std::get<layers::MoeSpec>(spec.blocks[static_cast<size_t>(layer)].ffn);
}

/// Makes the last experts of each layer (one; of routers with groups one of each) such as no token is routed to: the
/// first dimension of every embedding is large, and their routers' rows look at nothing else.
std::vector<checkpoint::MemoryTensor> with_dead_experts(const models::ModelSpec& spec,
                                                        std::map<int64_t, std::vector<int64_t>>& dead) {
  std::vector<checkpoint::MemoryTensor> tensors = tiny::weights(spec, 1);
  const families::NameTable names = families::family_of(spec).hugging_face_names();
  const auto floats = [&](const std::string& pattern, int64_t layer) {
    checkpoint::MemoryTensor& t = tiny::find(tensors, families::expand(names.find(pattern)->front().pattern, layer));
    return std::pair(reinterpret_cast<float*>(t.bytes.data()), t.shape.back());
  };
  const auto [embedding, width] = floats("embedding", -1);
  for (int64_t token = 0; token < spec.vocabulary; ++token) embedding[token * width] = 30;
  for (size_t i = 0; i < spec.blocks.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    if (!std::holds_alternative<layers::MoeSpec>(spec.blocks[i].ffn)) continue;
    const layers::RouterSpec& router = moe_of(spec, layer).router;
    const auto [rows, cols] = floats("blocks.{layer}.moe.router", layer);
    // What the router reads has gone through the FFN's norm, or one of its own (Gemma 4), or none (FlexOlmo).
    const bool before = spec.blocks[i].ffn_norm.has_value();
    if (before || router.input_norm) {
      float* const norm = floats(before ? "blocks.{layer}.ffn_norm" : "blocks.{layer}.moe.router.norm", layer).first;
      norm[0] = std::abs(norm[0]) + 0.5f;
    }
    for (int64_t e = 0; e < router.experts; ++e) rows[e * cols] = 0;
    const int64_t group = moe_of(spec, layer).experts_with_weights() / router.groups;
    for (int64_t g = 0; g < router.groups; ++g) {
      const int64_t e = (g + 1) * group - 1;
      std::fill_n(rows + e * cols, cols, 0.0f);
      rows[e * cols] = -1000;
      dead[layer].push_back(e);
    }
  }
  return tensors;
}

KeptExperts without(const models::ModelSpec& spec, const std::map<int64_t, std::vector<int64_t>>& dead) {
  KeptExperts kept;
  for (const auto& [layer, gone] : dead)
    for (int64_t e = 0; e < moe_of(spec, layer).experts_with_weights(); ++e)
      if (std::find(gone.begin(), gone.end(), e) == gone.end()) kept[layer].push_back(e);
  return kept;
}

class Prune : public Law {};

TEST_P(Prune, APlantedDeadExpertIsMissedByNobody) {
  Json config = sayable(GetParam().family);
  models::ModelSpec spec = families::read_config(config, "tiny", true);
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn); moe && moe->router.groups > 1) {
      // So many that a token can do without the dead one of each group.
      const int64_t others = moe->router.groups_kept * (moe->router.experts / moe->router.groups - 1);
      config["num_experts_per_tok"] = std::min(moe->router.experts_per_token, others);
    }
  spec = families::read_config(config, "tiny", true);
  std::map<int64_t, std::vector<int64_t>> dead;
  const Saved saved(config, with_dead_experts(spec, dead));
  Runner run(GetParam(), *saved.model.decoder);
  ExpertSaliency saliency(saved.model.decoder->spec());
  run.observer = &saliency;
  const std::vector<int32_t> ids = some_ids(40, spec.vocabulary, 1);
  const std::vector<float> before = run.whole(ids);
  for (const auto& [layer, gone] : dead)
    for (const int64_t e : gone) ASSERT_EQ(saliency.layers().at(layer).tokens[static_cast<size_t>(e)], 0);
  const layers::MoeSpec& moe = moe_of(spec, dead.begin()->first);
  const layers::RouterSpec& router = moe.router;
  const int64_t keep = moe.experts_with_weights() - router.groups;
  // They are chosen to go: nothing matters less than never having been asked.
  KeptExperts kept = surgery::choose_experts(spec, saliency.layers(), keep, false);
  for (const auto& [layer, gone] : dead)
    for (const int64_t e : gone)
      EXPECT_FALSE(std::binary_search(kept.at(layer).begin(), kept.at(layer).end(), e) &&
                   saliency.layers().at(layer).saliency()[static_cast<size_t>(e)] == 0 &&
                   std::count(saliency.layers().at(layer).tokens.begin(), saliency.layers().at(layer).tokens.end(),
                              0) <= router.groups)
          << "expert " << e << " of " << testing::PrintToString(saliency.layers().at(layer).saliency()) << ", tokens "
          << testing::PrintToString(saliency.layers().at(layer).tokens);
  kept = without(spec, dead);
  surgery::prune(saved.model, kept, saved.folder / "pruned");
  const families::Model pruned = saved.converted("pruned");
  EXPECT_EQ(moe_of(pruned.decoder->spec(), dead.begin()->first).experts_with_weights(), keep);
  Runner after(GetParam(), *pruned.decoder);
  expect_close(after.whole(ids), before, 1e-6, "without the dead expert");

  if (families::family_of_model_type(GetParam().family, "law").architecture.empty()) return;
  saved.convert();
  const families::Model gguf = saved.converted();
  surgery::prune(gguf, kept, saved.folder / "pruned.gguf");
  const families::Model both = saved.converted("pruned.gguf");
  Runner gguf_before(GetParam(), *gguf.decoder), gguf_after(GetParam(), *both.decoder);
  expect_close(gguf_after.whole(ids), gguf_before.whole(ids), 1e-6, "without the dead expert, in GGUF");
}

std::vector<Case> with_experts() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) {
    return c.isa != "scalar" || c.precision != ops::Precision::f32 ||
           c.family == "jetmoe" ||  // whose attention has experts, too: refused
           !has_experts(families::read_config(tiny::configs().at(c.family), "law", false));
  });
  return all;
}
TEST(PruneRefuses, ExpertsWithinAttention) {
  const Saved saved(tiny::configs().at("jetmoe"));
  KeptExperts kept;
  for (int64_t layer = 0; layer < 3; ++layer) kept[layer] = {0, 1, 2, 3};
  expect_error(ErrorKind::unsupported, {"within attention"},
               [&] { surgery::prune(saved.model, kept, saved.folder / "pruned"); });
}
INSTANTIATE_TEST_SUITE_P(Families, Prune, testing::ValuesIn(with_experts()), name_of);

TEST(Saliency, IsTheMeanOfWeightTimesNorm) {
  const tiny::Model model = tiny::make("mixtral");
  ExpertSaliency saliency(model.decoder->spec());
  const std::vector<int32_t> ids = {2, 0, 2, 5};  // two tokens, two experts each
  const std::vector<float> weights = {0.75f, 0.25f, 0.5f, 0.5f};
  const ops::RoutingPlan plan = ops::make_plan(ids, weights, 2, 2, 6);
  // Slots by expert: 0 (token 0), 2 (tokens 0 and 1), 5 (token 1).
  float out[] = {3, 4, 0, 1, 6, 8, -2, 0};
  saliency.expert_outputs(1, plan, {out, 4, 2});
  const ExpertSaliency::Layer& layer = saliency.layers().at(1);
  EXPECT_EQ(layer.tokens, (std::vector<int64_t>{1, 0, 2, 0, 0, 1}));
  const std::vector<double> expected = {0.25 * 5, 0, (0.75 * 1 + 0.5 * 10) / 2, 0, 0, 0.5 * 2};
  for (size_t e = 0; e < 6; ++e) EXPECT_DOUBLE_EQ(layer.saliency()[e], expected[e]) << e;
  EXPECT_EQ(saliency.layers().at(0).saliency(), std::vector<double>(6, 0.0));

  // Ties (the three of 0) go to the lower number.
  EXPECT_EQ(surgery::choose_experts(model.decoder->spec(), saliency.layers(), 4, false).at(1),
            (std::vector<int64_t>{0, 1, 2, 5}));
  // Layers that nobody saw keep what a token takes, when they are compared.
  const KeptExperts uneven = surgery::choose_experts(model.decoder->spec(), saliency.layers(), 3, true);
  EXPECT_EQ(uneven.at(1).size() + uneven.at(0).size() + (uneven.contains(2) ? uneven.at(2).size() : 0),
            3 * saliency.layers().size());
  for (const int64_t e : {0, 2, 5}) EXPECT_EQ(std::count(uneven.at(1).begin(), uneven.at(1).end(), e), 1) << e;
}

// What each slot gives, seen by the observer, makes the layer's output when it is weighed and summed.
TEST(Saliency, SeesWhatTheExpertsGive) {
  const tiny::Model model = tiny::make("olmoe");
  ExpertSaliency saliency(model.decoder->spec());
  Runner seen({"olmoe", "scalar"}, *model.decoder), plain({"olmoe", "scalar"}, *model.decoder);
  seen.observer = &saliency;
  const std::vector<int32_t> ids = some_ids(33, model.decoder->spec().vocabulary, 1);
  expect_same_bits(seen.whole(ids), plain.whole(ids), "observing changes no bit");
  for (const auto& [number, layer] : saliency.layers()) {
    int64_t tokens = 0;
    for (const int64_t n : layer.tokens) tokens += n;
    EXPECT_EQ(tokens, 33 * 4);
    EXPECT_GT(*std::max_element(layer.sums.begin(), layer.sums.end()), 0);
  }
}

TEST(PrunedGguf, KeepsTheBytesOfWhatStaysAndTakesOtherCountsInEachLayer) {
  const Saved saved(tiny::configs().at("mixtral"));
  saved.convert({.to = DType::q4_0});
  const families::Model model = saved.converted();
  const KeptExperts kept = {{0, {1, 4, 5}}, {1, {0, 1, 2, 3, 5}}, {2, {2, 3}}};
  KeptExperts there;
  for (const auto& [layer, experts] : kept)
    if (layer < std::ssize(model.decoder->spec().blocks)) there[layer] = experts;
  const surgery::Pruned said = surgery::prune(model, there, saved.folder / "pruned.gguf");
  ASSERT_EQ(said.notes.size(), 1);
  const families::Model pruned = saved.converted("pruned.gguf");
  EXPECT_EQ(std::get<uint64_t>(pruned.source->metadata().at("llama.expert_count")), 5u);
  int64_t parameters = 0;
  for (const checkpoint::TensorInfo& t : model.source->tensors()) {
    const checkpoint::TensorInfo* after = pruned.source->find(t.name);
    ASSERT_NE(after, nullptr) << t.name;
    EXPECT_EQ(after->dtype, t.dtype);
    parameters += tensor::element_count(after->shape);
    const bool sliced = t.name.find("_exps") != std::string::npos || t.name.find("gate_inp") != std::string::npos;
    if (!sliced) {
      EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), after->bytes.begin(), after->bytes.end())) << t.name;
      continue;
    }
    const std::vector<int64_t>& experts = there.at(t.name[4] - '0');
    ASSERT_EQ(after->shape[0], std::ssize(experts)) << t.name;
    const size_t each = t.bytes.size() / 6;
    for (size_t i = 0; i < experts.size(); ++i)
      EXPECT_EQ(
          std::memcmp(after->bytes.data() + i * each, t.bytes.data() + static_cast<size_t>(experts[i]) * each, each), 0)
          << t.name << " " << i;
  }
  EXPECT_EQ(said.parameters_after, parameters);
  EXPECT_EQ(moe_of(pruned.decoder->spec(), 0).router.experts, 3);
  Runner run({"mixtral", "scalar"}, *pruned.decoder);
  for (const float logit : run.whole(some_ids(20, pruned.decoder->spec().vocabulary, 1)))
    ASSERT_TRUE(std::isfinite(logit));
}

TEST(PruneRefuses, WhatCannotBe) {
  const Saved saved(tiny::configs().at("mixtral"));
  const ExpertSaliency saliency(saved.model.decoder->spec());
  const models::ModelSpec& spec = saved.model.decoder->spec();
  const auto choose = [&](int64_t keep, bool uneven = false) {
    return surgery::choose_experts(spec, saliency.layers(), keep, uneven);
  };
  expect_error(ErrorKind::bad_input, {"prune.keep", "a token takes 2"}, [&] { choose(1); });
  expect_error(ErrorKind::bad_input, {"prune.keep", "is 7", "6 experts"}, [&] { choose(7); });
  const Saved dense(tiny::configs().at("llama"));
  expect_error(ErrorKind::bad_input, {"no experts"}, [&] {
    surgery::choose_experts(dense.model.decoder->spec(), ExpertSaliency(dense.model.decoder->spec()).layers(), 2,
                            false);
  });
  const tiny::Model groups = tiny::make("deepseek_v3");
  const ExpertSaliency of_groups(groups.decoder->spec());
  expect_error(ErrorKind::unsupported, {"groups"}, [&] {
    surgery::choose_experts(groups.decoder->spec(), of_groups.layers(),
                            moe_of(groups.decoder->spec(), of_groups.layers().begin()->first).router.experts - 1,
                            false);
  });
  expect_error(ErrorKind::bad_input, {"is a .gguf file, and the model is a folder"},
               [&] { surgery::prune(saved.model, choose(3), saved.folder / "pruned.gguf"); });
  KeptExperts uneven = choose(3);
  uneven.begin()->second.push_back(5);
  expect_error(ErrorKind::unsupported, {"one number of experts", "GGUF"},
               [&] { surgery::prune(saved.model, uneven, saved.folder / "pruned"); });
  EXPECT_FALSE(std::filesystem::exists(saved.folder / "pruned"));
}

}  // namespace
}  // namespace coterie::laws
