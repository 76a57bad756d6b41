#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "families/family.h"
#include "laws/models/bench.h"
#include "layers/moe/piecewise_source.h"
#include "runtime/expert_store/expert_store.h"
#include "runtime/expert_store/stream_plan.h"
#include "support/fake_reader.h"

// A law: a model whose experts are read as they are needed, into slots for all of them, for a part or for a single one,
// gives the bits of the model in memory, in whichever order its reads end, on 1 to 4 threads, for prompts, decoded
// tokens and batches. The bound weights are rubbish meanwhile, so nothing is read of them.
namespace coterie::laws {
namespace {

using runtime::ExpertLayout;
using runtime::ExpertStore;
using runtime::LookAhead;
using runtime::test::FakeReader;

/// All experts of a model, copied; the model's own are overwritten once `spoil` is called.
class Streamed {
 public:
  explicit Streamed(const tiny::Model& model) : source_(*model.source) {
    layout_ = ExpertLayout::of(*model.decoder, source_, files_);
    layout_.fit(FakeReader::kUnit);
    whole_ = std::make_unique<FakeReader>(layout_, 0);
  }
  const ExpertLayout& layout() const { return layout_; }

  void spoil() {
    for (const ExpertLayout::Layer& layer : layout_.layers)
      for (const runtime::StoredExpert& expert : layer.experts)
        for (const runtime::ExpertPart& part : expert.parts)
          std::memset(const_cast<std::byte*>(part.mapped), 0xff, static_cast<size_t>(part.bytes));
  }
  std::unique_ptr<ExpertStore> store(std::vector<int64_t> slots, uint64_t seed, LookAhead ahead = LookAhead::off) {
    auto reader = std::make_unique<FakeReader>(*whole_);
    reader->shuffle(seed);
    return std::make_unique<ExpertStore>(layout_, source_, files_, std::move(reader), std::move(slots), ahead);
  }

 private:
  runtime::test::PlacedSource source_;
  runtime::FileTable files_;
  ExpertLayout layout_;
  std::unique_ptr<FakeReader> whole_;
};

class Streaming : public Law {
 protected:
  tiny::Model model = model_of(GetParam());
  const models::ModelSpec& spec = model.decoder->spec();
  std::vector<int32_t> ids = some_ids(23, spec.vocabulary, 1), others = some_ids(9, spec.vocabulary, 2);

  /// A prompt, the same in pieces that end with single tokens, and two sequences side by side.
  std::vector<std::vector<float>> results(layers::ExpertSource* source, int threads) {
    Runner run(GetParam(), *model.decoder, threads);
    run.experts = source;
    constexpr int64_t kPieces[] = {5, 1, 1, 9, 1, 1, 5};
    std::vector<std::vector<float>> all{run.whole(ids), run.pieces(ids, kPieces)};
    layers::ResidentState first = run.state(), second = run.state();
    layers::ResidentState* states[] = {&first, &second};
    const std::span<const int32_t> prompts[] = {ids, others},
                                   tokens[] = {std::span(ids).first(1), std::span(others).first(1)};
    all.push_back(run.step(prompts, states));
    all.push_back(run.step(tokens, states));
    return all;
  }
  /// The first of these results.
  std::vector<float> first_result(layers::ExpertSource* source, int threads) {
    Runner run(GetParam(), *model.decoder, threads);
    run.experts = source;
    return run.whole(ids);
  }
  void expect_same(const std::vector<std::vector<float>>& found, const std::vector<std::vector<float>>& expected,
                   const std::string& what) {
    for (size_t i = 0; i < found.size(); ++i) expect_same_bits(found[i], expected[i], what + std::to_string(i));
  }
};

TEST_P(Streaming, ExpertsFromSlotsGiveTheSameBits) {
  const std::vector<std::vector<float>> before = results(nullptr, 2);
  Streamed streamed(model);
  const ExpertLayout& layout = streamed.layout();
  streamed.spoil();
  const std::vector<int64_t> one(layout.class_experts.size(), 1);
  const std::vector<std::vector<int64_t>> budgets = {layout.class_experts,
                                                     runtime::divide_slots(layout, spec, 2 * layout.expert_bytes() / 5),
                                                     runtime::divide_slots(layout, spec, 0), one};
  for (size_t i = 0; i < budgets.size(); ++i) {
    const auto threads = static_cast<int>(1 + (i + GetParam().family.size()) % 4);
    // Slots for all are filled once; the floor and a single slot leave little to be read ahead.
    const auto looking = streamed.store(budgets[i], i + 7, LookAhead::on);
    const std::string with = std::to_string(i) + ", looking ahead, ";
    if (i == 1)
      expect_same(results(looking.get(), threads), before, with);
    else
      expect_same({first_result(looking.get(), threads)}, before, with);
    EXPECT_EQ(looking->policy().leased(), 0);
    const auto store = streamed.store(budgets[i], i + 1);
    expect_same(results(store.get(), threads), before, std::to_string(i) + ", ");
    EXPECT_EQ(store->policy().leased(), 0);
    const runtime::StreamFigures& figures = store->figures();
    const int64_t misses = figures.decode.misses + figures.prompt.misses;
    EXPECT_GT(misses, 0);
    if (i == 0) {
      EXPECT_LE(misses, layout.experts()) << "with a slot for each, each is read once";
    }
    EXPECT_GE(figures.decode.bytes + figures.prompt.bytes, misses);
  }
}

// Victims are chosen when it is known what is needed, never by what arrives first.
TEST_P(Streaming, WhatIsReadDoesNotDependOnTheOrderOfArrival) {
  Streamed streamed(model);
  int64_t bytes = -1, misses = -1;
  for (const uint64_t seed : {1, 2}) {
    const auto store =
        streamed.store(runtime::divide_slots(streamed.layout(), spec, 2 * streamed.layout().expert_bytes() / 5), seed);
    results(store.get(), seed == 1 ? 1 : 3);
    const runtime::StreamFigures& figures = store->figures();
    const int64_t read = figures.decode.bytes + figures.prompt.bytes,
                  missed = figures.decode.misses + figures.prompt.misses;
    if (bytes >= 0) {
      EXPECT_EQ(read, bytes);
    }
    if (misses >= 0) {
      EXPECT_EQ(missed, misses);
    }
    bytes = read, misses = missed;
  }
}

/// The weights that are bound, all at once, for so many rows of a step at a time.
class InPieces final : public layers::PiecewiseSource {
 public:
  explicit InPieces(int64_t rows) : rows_(rows) {}
  int64_t rows_at_once() const override { return rows_; }
  std::unique_ptr<layers::ExpertLease> lease(const layers::ExpertCall& call) override {
    struct All final : layers::ExpertLease {
      explicit All(const layers::ExpertCall& of) : call(of) {
        for (int32_t e = 0; e < call.plan.experts(); ++e)
          if (!call.plan.tokens_of(e).empty()) ids.push_back(e);
      }
      std::span<const int32_t> next() override { return std::exchange(given, true) ? std::span<const int32_t>() : ids; }
      std::span<const ops::ExpertInput> inputs() const override { return call.inputs; }
      std::span<const ops::ExpertOutput> outputs() const override { return call.outputs; }
      layers::ExpertCall call;
      std::vector<int32_t> ids;
      bool given = false;
    };
    return std::make_unique<All>(call);
  }

 private:
  int64_t rows_;
};

class LayerByLayer : public Law {};

// Blocks that take a prompt in pieces, all of them before the next block begins, give the bits of steps of such pieces:
// so a long prompt can read each missing expert once.
TEST_P(LayerByLayer, PiecesOfAStepGiveTheBitsOfStepsOfPieces) {
  const tiny::Model model = model_of(GetParam());
  const std::vector<int32_t> all = some_ids(23, model.decoder->spec().vocabulary, 1);
  Runner run(GetParam(), *model.decoder, 2);
  const auto logits = [&](int64_t rows, int64_t rows_at_once) {
    layers::ResidentState state = run.state();
    std::vector<float> result;
    for (int64_t t = 0; t < std::ssize(all); t += rows) {
      const auto ids = std::span(all)
                           .subspan(static_cast<size_t>(t))
                           .first(static_cast<size_t>(std::min(rows, std::ssize(all) - t)));
      const models::SequenceStep step{.ids = ids,
                                      .state = &state,
                                      .logits = models::SequenceStep::Logits::all,
                                      .random_key = 1,
                                      .length = std::ssize(all)};
      state.reserve(std::ssize(ids));
      ops::Context context{run.pool, run.kernels, run.arena, run.precision};
      InPieces source(rows_at_once);
      const tensor::Matrix found = run.decoder.forward(context, {&step, 1}, {.experts = &source});
      state.advance(std::ssize(ids));
      result.insert(result.end(), found.data, found.data + found.rows * found.cols);
      run.arena.reset();
    }
    return result;
  };
  const std::vector<float> expected = logits(5, 0);
  expect_same_bits(logits(23, 5), expected, "all, 5 rows at once");
  expect_same_bits(logits(10, 5), expected, "10, 5 rows at once");
}

// A Soft MoE sends every token to every expert: there is nothing to choose.
std::vector<Case> with_chosen_experts(std::vector<Case> all) {
  std::erase_if(all, [](const Case& c) {
    const models::ModelSpec spec = families::read_config(tiny::configs().at(c.family), "law", false);
    for (const models::BlockSpec& block : spec.blocks)
      if (const auto* moe = std::get_if<layers::MoeSpec>(&block.ffn))
        return moe->router.selection == layers::RouterSpec::Selection::soft;
    return true;
  });
  return all;
}

INSTANTIATE_TEST_SUITE_P(Families, LayerByLayer, testing::ValuesIn(with_chosen_experts(cases())), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, LayerByLayer, testing::ValuesIn(with_chosen_experts(other_cases())), name_of);

INSTANTIATE_TEST_SUITE_P(Families, Streaming, testing::ValuesIn(with_chosen_experts(cases())), name_of);
INSTANTIATE_TEST_SUITE_P(Slow, Streaming, testing::ValuesIn(with_chosen_experts(other_cases())), name_of);

}  // namespace
}  // namespace coterie::laws
