#include "layers/observer.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>

#include "families/family.h"
#include "laws/models/bench.h"
#include "layers/moe/router_hook.h"

// Looking on, and stepping in: who observes changes no bit, and what a hook does to one sequence is no other's
// business.
namespace coterie::laws {
namespace {

using layers::RouterSpec;

const RouterSpec* router_of(const models::ModelSpec& spec) {
  for (const models::BlockSpec& block : spec.blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) return &moe->router;
  return nullptr;
}

std::vector<Case> with_choices() {
  std::vector<Case> all = all_cases();
  std::erase_if(all, [](const Case& c) {
    if (c.isa != "scalar" || c.precision != ops::Precision::f32) return true;
    const RouterSpec* router = router_of(families::read_config(tiny::configs().at(c.family), "law", false));
    return !router || router->selection == RouterSpec::Selection::soft || (router->capacity && router->always.capacity);
  });
  return all;
}

/// Everything there is to be seen.
class Everything final : public layers::Observer {
 public:
  void routed(const layers::Routed& r) override {
    ++events["routed"];
    EXPECT_EQ(r.input.rows, r.logits.rows);
    slots += r.plan.slots();
  }
  void ffn_input(int64_t, tensor::ConstMatrix) override { ++events["ffn_input"]; }
  void mixer_output(int64_t, tensor::ConstMatrix) override { ++events["mixer_output"]; }
  void ffn_output(int64_t, tensor::ConstMatrix) override { ++events["ffn_output"]; }
  void block(int64_t, tensor::ConstMatrix) override { ++events["block"]; }
  void logits(tensor::ConstMatrix x) override { ++events["logits"], rows += x.rows; }
  bool wants_products() const override { return true; }
  void product(const layers::Product& p) override {
    paths.insert(p.weight.path);
    EXPECT_TRUE(p.weight.layer == p.layer || p.weight.path.find(".shared.") != std::string::npos) << p.weight.path;
    if (p.weight.path.ends_with(".experts.down")) of_experts += p.count();
  }
  bool wants_expert_outputs() const override { return true; }
  void expert_outputs(int64_t, const ops::RoutingPlan& plan, tensor::ConstMatrix out) override {
    ++events["expert_outputs"];
    EXPECT_EQ(out.rows, plan.slots());
  }

  std::map<std::string, int64_t> events;
  std::set<std::string> paths;
  int64_t slots = 0, of_experts = 0, rows = 0;
};

/// Remembers what each layer decided at each position of the first sequence.
class Recorder final : public layers::Observer {
 public:
  struct Choice {
    std::vector<int32_t> ids;
    std::vector<float> weights;
  };
  void routed(const layers::Routed& r) override {
    const layers::SequenceRows& s = r.sequences.front();
    for (int64_t t = s.first_row; t < s.first_row + s.rows; ++t) {
      Choice& choice = all[{r.layer, s.first_position + t - s.first_row}];
      for (auto c = static_cast<size_t>(r.plan.token_offset[static_cast<size_t>(t)]);
           c < static_cast<size_t>(r.plan.token_offset[static_cast<size_t>(t) + 1]); ++c) {
        const int32_t slot = r.plan.token_slot[c];
        choice.ids.push_back(
            static_cast<int32_t>(std::upper_bound(r.plan.expert_offset.begin(), r.plan.expert_offset.end(), slot) -
                                 r.plan.expert_offset.begin() - 1));
        choice.weights.push_back(r.plan.slot_weight[static_cast<size_t>(slot)]);
      }
    }
  }
  std::map<std::pair<int64_t, int64_t>, Choice> all;
};

class Replay final : public layers::RouterHook {
 public:
  explicit Replay(const Recorder& recorder) : recorder_(recorder) {}
  void logits(int64_t, int64_t, tensor::Matrix logits) const override {
    for (int64_t r = 0; r < logits.rows; ++r)
      for (int64_t e = 0; e < logits.cols; ++e) logits.row(r)[e] = static_cast<float>(e % 3);
  }
  void choices(int64_t layer, int64_t first, int64_t rows, std::span<int32_t> ids,
               std::span<float> weights) const override {
    const auto k = ids.size() / static_cast<size_t>(rows);
    std::fill(ids.begin(), ids.end(), -1);
    for (int64_t r = 0; r < rows; ++r) {
      const Recorder::Choice& choice = recorder_.all.at({layer, first + r});
      std::copy(choice.ids.begin(), choice.ids.end(), ids.begin() + r * static_cast<int64_t>(k));
      std::copy(choice.weights.begin(), choice.weights.end(), weights.begin() + r * static_cast<int64_t>(k));
    }
  }

 private:
  const Recorder& recorder_;
};

class Silence final : public layers::RouterHook {
 public:
  void logits(int64_t, int64_t, tensor::Matrix logits) const override {
    for (int64_t r = 0; r < logits.rows; ++r) logits.row(r)[1] = -std::numeric_limits<float>::infinity();
  }
};

class Looking : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  std::vector<int32_t> ids = some_ids(17, model.decoder->spec().vocabulary, 1),
                       other = some_ids(9, model.decoder->spec().vocabulary, 2);

  std::vector<float> together(const layers::RouterHook* hook, layers::Observer* observer = nullptr) {
    Runner run(GetParam(), *model.decoder);
    run.hook = hook, run.observer = observer;
    layers::ResidentState first = run.state(), second = run.state();
    const std::span<const int32_t> both[] = {ids, other};
    layers::ResidentState* states[] = {&first, &second};
    return run.step(both, states);
  }
  std::span<const float> of_first(const std::vector<float>& logits) const {
    return std::span(logits).first(ids.size() * static_cast<size_t>(model.decoder->spec().vocabulary));
  }
  std::span<const float> of_second(const std::vector<float>& logits) const {
    return std::span(logits).subspan(of_first(logits).size());
  }
};

TEST_P(Looking, ChangesNoBitAndSeesEveryWeightThatIsMultiplied) {
  Everything one, two;
  layers::Observers both{&one, nullptr, &two};
  expect_same_bits(together(nullptr, both.get()), together(nullptr), "observed");
  EXPECT_EQ(one.events, two.events);
  EXPECT_EQ(one.paths, two.paths);
  const auto blocks = std::ssize(model.decoder->spec().blocks);
  EXPECT_EQ(one.events["block"], blocks);
  EXPECT_EQ(one.events["mixer_output"],
            std::count_if(model.decoder->spec().blocks.begin(), model.decoder->spec().blocks.end(),
                          [](const auto& block) { return !std::holds_alternative<layers::NoMixerSpec>(block.mixer); }));
  EXPECT_EQ(one.events["ffn_output"], one.events["ffn_input"]);
  EXPECT_EQ(one.events["expert_outputs"], one.events["routed"]);
  EXPECT_EQ(one.events["logits"], 1);
  EXPECT_EQ(one.rows, std::ssize(ids) + std::ssize(other));
  bool identities = false;  // experts without weights multiply nothing
  for (const models::BlockSpec& block : model.decoder->spec().blocks)
    if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn)) identities |= moe->identity_experts > 0;
  if (identities)
    EXPECT_LT(one.of_experts, one.slots);
  else
    EXPECT_EQ(one.of_experts, one.slots) << "each assignment is a row of one expert's input";
  EXPECT_TRUE(one.paths.contains("head") || one.paths.contains("embedding"));
}

TEST_P(Looking, AReplayedPlanGivesTheSameBitsWhateverTheRouterSays) {
  Recorder recorder;
  const std::vector<float> before = together(nullptr, &recorder);
  const Replay replay(recorder);
  Recorder again;
  const std::vector<float> after = together(&replay, &again);
  expect_same_bits(after, before, "replayed");
  for (const auto& [where, choice] : recorder.all) {
    EXPECT_EQ(again.all.at(where).ids, choice.ids);
    EXPECT_EQ(again.all.at(where).weights, choice.weights);
  }
}

TEST_P(Looking, ASilencedExpertIsSilentInItsSequenceAlone) {
  const Silence silence;
  Recorder recorder;
  const std::vector<float> before = together(nullptr), after = together(&silence, &recorder);
  int64_t choices = 0;
  for (const auto& [where, choice] : recorder.all) {
    EXPECT_EQ(std::count(choice.ids.begin(), choice.ids.end(), 1), 0);
    choices += std::ssize(choice.ids);
    for (const float weight : choice.weights) EXPECT_TRUE(std::isfinite(weight));
  }
  EXPECT_GT(choices, 0);
  expect_same_bits(of_second(after), of_second(before), "the neighbour");
  EXPECT_FALSE(std::equal(of_first(after).begin(), of_first(after).end(), of_first(before).begin()))
      << "nobody noticed that an expert was silent";
}

INSTANTIATE_TEST_SUITE_P(Families, Looking, testing::ValuesIn(with_choices()), name_of);

}  // namespace
}  // namespace coterie::laws
