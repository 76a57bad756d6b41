#include "runtime/memory_plan.h"

#include <gtest/gtest.h>

#include "runtime/bench.h"
#include "runtime/shape_model.h"
#include "runtime/weight_bytes.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

// A published shape made narrow in layers only, so that its widths are real.
Engine shaped(const std::string& shape, int64_t layers, int64_t step_tokens) {
  ShapeOptions options;
  options.shape = shape, options.layers = layers;
  EngineOptions engine;
  engine.threads = 2, engine.step_tokens = step_tokens;
  return Engine(shape_model(options, {}), engine);
}

TEST(MemoryPlan, ScratchIsWhatTheArenaGrowsTo) {
  for (const int64_t tokens : {1, 64, 256}) {
    Engine engine = shaped("olmoe-1b-7b", 1, tokens);
    std::vector<int32_t> ids(static_cast<size_t>(tokens), 17);
    KvCache cache = engine.make_cache();
    const models::SequenceStep step{.ids = ids, .state = &cache};
    engine.evaluate({&step, 1});
    const double planned = static_cast<double>(scratch_bytes(engine.spec(), tokens, 1, 2));
    const double held = static_cast<double>(engine.context().arena.capacity());
    // Chunks are rounded up, at most to twice what they hold; a few hundred kilobytes are each worker's own.
    EXPECT_GT(planned, 0.45 * held) << tokens;
    EXPECT_LT(planned, 1.6 * held + (2 << 20)) << tokens;
  }
}

TEST(MemoryPlan, TouchedBytesFollowTheRouting) {
  const families::Model model = test::tiny_model(false);
  const models::ModelSpec& spec = model.decoder->spec();
  const auto& moe = std::get<layers::MoeSpec>(spec.blocks[0].ffn);
  const WeightBytes bytes = weight_bytes(*model.decoder);
  const auto at = [](models::Place place) { return static_cast<size_t>(place); };
  EXPECT_EQ(bytes.touched[at(models::Place::experts)] * moe.router.experts,
            bytes.held[at(models::Place::experts)] * moe.router.experts_per_token);
  EXPECT_EQ(bytes.held[at(models::Place::input_embeddings)], spec.vocabulary * spec.width * 4);
  EXPECT_EQ(bytes.touched[at(models::Place::input_embeddings)], spec.width * 4);
  EXPECT_EQ(bytes.touched[at(models::Place::output_embeddings)], spec.vocabulary * spec.width * 4);
  // Everything is f32: four bytes for each parameter of the account.
  const models::Account account = models::account(spec);
  EXPECT_EQ(bytes.all_held(), 4 * account.total());
}

}  // namespace
}  // namespace coterie::runtime
