#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <vector>

#include "lens/choices.h"
#include "lens/fitted_routes.h"
#include "lens/route_feed.h"
#include "runtime/engine.h"
#include "runtime/simulation.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"

// A law: what `coterie simulate` counts for routes is what an engine reads that is sent there, expert by expert, for
// prompts in one step, in several, and layer by layer, and for decoding, whatever the memory and the reader.
namespace coterie::runtime {
namespace {

using Logits = models::SequenceStep::Logits;

constexpr int64_t kStep = 64, kFirst = 300, kSecond = 110;

struct Routed {
  TempFolder folder;
  std::filesystem::path path = folder / "tiny.gguf";
  lens::Routes routes = lens::fitted_routes(lens::fitted_for(16), 2, 16, 2, kFirst + kSecond, 4);

  /// Two sequences: one of a long prompt, one whose prompt ends in a piece that is too short for one.
  Routed() {
    test::write_tiny_gguf(path, 2048, tensor::DType::q8_0, {256, 512, 16});
    routes.sequence_begin = {0, kFirst, kFirst + kSecond};
    routes.prompt = {200, kStep + 10};
  }
  Engine engine(int64_t expert_memory, DiskReader reader = DiskReader::threads) const {
    EngineOptions options;
    options.threads = 1, options.expert_memory = expert_memory, options.disk_reader = reader;
    options.step_tokens = kStep;
    options.look_ahead = LookAhead::off;  // what it reads is counted apart, and not simulated
    return Engine(families::open_model(path), options);
  }
  /// Bits of the logits that were asked for. `most`: tokens of a prompt's step.
  std::vector<uint32_t> run(Engine& engine, int64_t most) const {
    lens::RouteFeed feed(routes, lens::router_shape(engine.spec()));
    std::vector<uint32_t> bits;
    for (size_t s = 0; s + 1 < routes.sequence_begin.size(); ++s) {
      KvCache cache = engine.make_cache();
      feed.start(0, routes.sequence_begin[s]);
      const int64_t length = routes.sequence_begin[s + 1] - routes.sequence_begin[s], prompt = routes.prompt[s];
      while (cache.length() < length) {
        const int64_t at = cache.length(), left = prompt - at;
        std::vector<int32_t> ids(static_cast<size_t>(left > 0 ? std::min(left, most) : 1));
        for (size_t i = 0; i < ids.size(); ++i)
          ids[i] = static_cast<int32_t>((7 * (at + static_cast<int64_t>(i))) % 250);
        const models::SequenceStep step{.ids = ids,
                                        .state = &cache,
                                        .logits = std::ssize(ids) < left ? Logits::none : Logits::last,
                                        .length = std::max(prompt, at + 1),
                                        .routers = &feed};
        const tensor::Matrix logits = engine.evaluate({&step, 1});
        for (int64_t i = 0; i < logits.rows * logits.cols; ++i) bits.push_back(std::bit_cast<uint32_t>(logits.data[i]));
      }
    }
    return bits;
  }
};

void expect_same(const ExpertPolicy::Counts& simulated, const StreamFigures::Kind& read, const std::string& what) {
  EXPECT_EQ(simulated.tokens, read.tokens) << what;
  EXPECT_EQ(simulated.hits, read.hits) << what;
  EXPECT_EQ(simulated.misses, read.misses) << what;
}

TEST(SimulatedReads, AreThoseOfTheEngine) {
  const Routed routed;
  int64_t pieces = 0, few = 0;
  for (const int64_t memory : {1, 5 << 20, 11 << 20, 1 << 30})
    for (const bool layer_by_layer : {false, true}) {
      Engine engine = routed.engine(memory, memory % 3 == 0 ? DiskReader::uring : DiskReader::threads);
      ExpertStore& store = *engine.bytes().store();
      const int64_t most = layer_by_layer ? engine.prompt_tokens() : kStep;
      (most > kStep ? pieces : few) += 1;
      routed.run(engine, most);
      const Simulation simulated =
          simulate(routed.routes, {.slots = store.all_slots(), .step_tokens = kStep, .prompt_tokens = most});
      const StreamFigures& read = store.figures();
      const std::string what = std::to_string(store.all_slots()) + " slots, " + std::to_string(most) + " tokens a step";
      expect_same(simulated.decode, read.decode, "decoding, " + what);
      expect_same(simulated.prompt, read.prompt, "prompts, " + what);
      EXPECT_GT(read.prompt.misses, 0);
      EXPECT_GT(read.decode.hits, 0);
    }
  EXPECT_GT(pieces, 0) << "no memory had room for a layer";
  EXPECT_GT(few, 0);
}

TEST(SimulatedReads, ALongPromptLayerByLayerHasTheBitsOfStepsAndReadsEachMissingExpertOnce) {
  const Routed routed;
  EngineOptions options;
  options.step_tokens = kStep, options.threads = 1;
  Engine resident(families::open_model(routed.path), options);
  EXPECT_EQ(resident.prompt_tokens(), kStep) << "in memory nothing is gained";
  const auto expected = routed.run(resident, kStep);
  Engine engine = routed.engine(12 << 20);
  ExpertStore& store = *engine.bytes().store();
  ASSERT_LT(store.all_slots(), store.layout().experts());
  ASSERT_GE(engine.prompt_tokens(), 200);
  EXPECT_EQ(routed.run(engine, engine.prompt_tokens()), expected);
  EXPECT_EQ(store.policy().leased(), 0);

  Engine fresh = routed.engine(12 << 20);
  std::vector<int32_t> ids(450);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(3 * i % 250);
  KvCache cache = fresh.make_cache();
  const models::SequenceStep step{.ids = ids, .state = &cache};
  fresh.evaluate({&step, 1});
  const StreamFigures& figures = fresh.bytes().store()->figures();
  EXPECT_LE(figures.prompt.misses, store.layout().experts());
  EXPECT_GT(figures.prompt.hits, 0) << "the next pieces of a layer find what the first has read";
}

}  // namespace
}  // namespace coterie::runtime
