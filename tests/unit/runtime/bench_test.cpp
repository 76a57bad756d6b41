#include "runtime/bench.h"

#include <gtest/gtest.h>

#include "models/account.h"
#include "support/expect_error.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

using base::ErrorKind;

const MachineLimits kMachine{1e10, 1e11, 4e11, true};

Engine make_engine() {
  EngineOptions options;
  options.threads = 1;
  return Engine(test::tiny_model(false), options);
}

BenchOptions small() {
  BenchOptions options;
  options.prompt = 20, options.generate = 6, options.repeat = 1;
  return options;
}

TEST(Bench, FiguresAgreeWithEachOther) {
  Engine engine = make_engine();
  for (const int64_t batch : {1, 3}) {
    BenchOptions options = small();
    options.batch = batch, options.depth = 10;
    const BenchResult result = bench(engine, options);
    const double sequences = static_cast<double>(batch);
    EXPECT_NEAR(result.prefill_tokens_per_second, sequences * 20 / result.prefill_seconds, 1e-6);
    EXPECT_NEAR(result.decode_tokens_per_second, sequences * 6 / result.decode_seconds, 1e-6);
    EXPECT_LE(result.decode_spread.least, result.decode_tokens_per_second);
    EXPECT_GE(result.decode_spread.most, result.decode_tokens_per_second);
    EXPECT_GT(result.prefill_spread.least, 0);
    EXPECT_NEAR(result.bytes_per_token,
                static_cast<double>(result.weight_bytes_per_step + result.cache_bytes_per_step) / sequences, 1e-6);
    EXPECT_NEAR(bandwidth_share(result, kMachine),
                result.bytes_per_token * result.decode_tokens_per_second / kMachine.read_bytes_per_second, 1e-9);
    EXPECT_NEAR(flops_share(result, kMachine),  // the weights are f32: no int8 products
                result.flops_per_token * result.prefill_tokens_per_second / kMachine.f32_flops, 1e-9);
    EXPECT_EQ(result.cache_bytes_per_step,
              batch * (13 * engine.cache().position_bytes() + 2 * engine.cache().state.bytes()));
    EXPECT_GT(result.peak_resident_bytes, 0);
  }
}

TEST(Bench, OneSequenceReadsWhatItIsRoutedTo) {
  Engine engine = make_engine();
  const BenchResult one = bench(engine, small());
  // 2 of 8 experts in both layers; a batch of 16 reads more of them, but never more than all.
  BenchOptions many = small();
  many.batch = 16;
  const BenchResult sixteen = bench(engine, many);
  const models::Account account = models::account(engine.spec());
  const auto experts = static_cast<size_t>(models::Place::experts);
  const auto embeddings = static_cast<size_t>(models::Place::input_embeddings);
  const int64_t rest = 4 * (account.total() - account.held[experts] - account.held[embeddings] + engine.spec().width);
  EXPECT_EQ(one.weight_bytes_per_step, rest + 4 * account.active[experts]);
  EXPECT_GT(sixteen.weight_bytes_per_step, one.weight_bytes_per_step);
  EXPECT_LE(sixteen.weight_bytes_per_step, rest + 4 * account.held[experts]);
}

TEST(Bench, APromptIsMultipliedByTheHeadOnce) {
  Engine engine = make_engine();
  BenchOptions options = small();
  options.generate = 0;
  const auto flops = [&](int64_t prompt) {
    options.prompt = prompt;
    return bench(engine, options).flops_per_token;
  };
  const models::Account account = models::account(engine.spec());
  const auto active = [&](models::Place place) { return account.active[static_cast<size_t>(place)]; };
  const double head = 2.0 * static_cast<double>(active(models::Place::output_embeddings));
  ASSERT_GT(head, 0);
  const layers::AttentionSpec* attention = models::attention_of(engine.spec(), engine.spec().blocks[0]);
  const double position = 2.0 * static_cast<double>(attention->heads * (attention->head_dim + attention->value_dim)) *
                          static_cast<double>(engine.spec().blocks.size());
  // From 1 to 4 tokens: a quarter of the head for each, and 2.5 positions seen instead of 1.
  EXPECT_NEAR(flops(4), flops(1) - 0.75 * head + 1.5 * position, 1e-6 * flops(1));
}

TEST(Bench, EitherHalfCanBeLeftOut) {
  Engine engine = make_engine();
  BenchOptions options = small();
  options.prompt = 0;
  EXPECT_EQ(bench(engine, options).prefill_tokens_per_second, 0);
  options.prompt = 4, options.generate = 0;
  EXPECT_EQ(bench(engine, options).decode_tokens_per_second, 0);
}

TEST(Bench, RefusesWhatCannotBeMeasured) {
  Engine engine = make_engine();
  const auto refused = [&](std::initializer_list<std::string_view> words, auto set) {
    BenchOptions options = small();
    set(options);
    expect_error(ErrorKind::bad_input, words, [&] { bench(engine, options); });
  };
  refused({"bench.prompt"}, [](BenchOptions& o) { o.prompt = -1; });
  refused({"bench.generate"}, [](BenchOptions& o) { o.generate = -1; });
  refused({"bench.depth"}, [](BenchOptions& o) { o.depth = -1; });
  refused({"bench.batch"}, [](BenchOptions& o) { o.batch = 0; });
  refused({"bench.repeat"}, [](BenchOptions& o) { o.repeat = 0; });
  refused({"nothing to measure"}, [](BenchOptions& o) { o.prompt = o.generate = 0; });
  refused({"bench.prompt", "257", "context of 256"}, [](BenchOptions& o) { o.prompt = 257; });
  refused({"bench.depth", "250", "21 tokens generated", "256"},
          [](BenchOptions& o) { o.depth = 250, o.generate = 21; });
}

}  // namespace
}  // namespace coterie::runtime
