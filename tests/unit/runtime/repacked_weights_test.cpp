#include "runtime/repacked_weights.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/table.h"
#include "runtime/engine.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"

namespace coterie::runtime {
namespace {

constexpr double kForever = std::numeric_limits<double>::infinity();

const std::vector<tensor::DType> kFormats = {tensor::DType::q8_0, tensor::DType::mxfp4, tensor::DType::q4_k,
                                             tensor::DType::q6_k, tensor::DType::bf16,  tensor::DType::f16,
                                             tensor::DType::f32};

bool can_repack() { return kernels::select().matmul.repack != nullptr; }

/// A file of random weights, and the model in it.
struct File {
  TempFolder folder;
  families::Model model;
  explicit File(tensor::DType dtype, test::TinySizes sizes = {}) {
    test::write_tiny_gguf(folder / "tiny.gguf", 256, dtype, sizes);
    model = families::open_model(folder / "tiny.gguf");
  }
};

std::vector<uint32_t> bits(tensor::Matrix logits) {
  std::vector<uint32_t> result;
  for (int64_t r = 0; r < logits.rows; ++r)
    for (int64_t c = 0; c < logits.cols; ++c) result.push_back(std::bit_cast<uint32_t>(logits.row(r)[c]));
  return result;
}

/// Logits of a prompt and of some tokens after it; all weights are moved between the first two steps if asked for.
std::vector<std::vector<uint32_t>> steps_of(Engine& engine, bool moved) {
  std::vector<int32_t> ids(20);
  std::iota(ids.begin(), ids.end(), 3);
  KvCache cache = engine.make_cache();
  std::vector<std::vector<uint32_t>> result;
  const auto step = [&](std::span<const int32_t> of, models::SequenceStep::Logits logits) {
    const models::SequenceStep next{.ids = of, .state = &cache, .logits = logits};
    result.push_back(bits(engine.evaluate({&next, 1})));
  };
  step(ids, models::SequenceStep::Logits::all);
  if (moved) engine.move_all_weights();
  for (const int32_t id : {7, 99, 200}) step({&id, 1}, models::SequenceStep::Logits::last);
  step(ids, models::SequenceStep::Logits::all);
  step({ids.data(), 5}, models::SequenceStep::Logits::all);
  return result;
}

class Counter : public layers::TensorReader {
 public:
  void matrix(const Tensor& tensor, int64_t, int64_t, const tensor::Weight& slot) override { count(tensor, slot); }
  void stack(const Tensor& tensor, int64_t, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
    for (const tensor::Weight& slot : slots) count(tensor, slot);
  }
  int64_t repacked = 0, experts = 0, looked_up = 0, routers = 0;

 private:
  void count(const Tensor& tensor, const tensor::Weight& slot) {
    if (!slot.repacked) return;
    repacked += slot.bytes();
    experts += tensor.place == layers::Place::experts;
    looked_up += tensor.place == layers::Place::input_embeddings;
    routers += tensor.place == layers::Place::router;
  }
};

Counter count(const models::Decoder& decoder) {
  Counter counter;
  decoder.read(counter);
  return counter;
}

// Rows of floats of a chunk of 256 and a part, whole panels of every instruction set.
constexpr test::TinySizes kWide = {272, 288, 16};

void expect_the_same_bits(tensor::DType dtype, test::TinySizes sizes) {
  File in_file_order(dtype, sizes), repacked(dtype, sizes);
  EngineOptions options;
  options.threads = 2;
  Engine settling(std::move(repacked.model), options);
  options.move_weights = false;
  Engine plain(std::move(in_file_order.model), options);
  EXPECT_EQ(steps_of(settling, true), steps_of(plain, false)) << tensor::name(dtype);
  EXPECT_EQ(count(*settling.model().decoder).repacked > 0, can_repack()) << tensor::name(dtype);
  EXPECT_EQ(count(*plain.model().decoder).repacked, 0) << tensor::name(dtype);
}

TEST(RepackedWeights, ChangeNoBitOfAnyStep) {
  for (const tensor::DType dtype : kFormats)
    expect_the_same_bits(dtype, tensor::is_block(dtype) ? test::TinySizes{} : kWide);
}

TEST(RepackedWeights, RowsThatAreNoWholeBlocksStayInTheFile) {
  // Of down, whose rows are whole panels; those of gate and up are not even that.
  constexpr test::TinySizes kOdd = {272, 548, 8};
  expect_the_same_bits(tensor::DType::bf16, kOdd);
  File file(tensor::DType::bf16, kOdd);
  threads::Pool pool(1);
  RepackedWeights weights(*file.model.decoder, *file.model.source, kernels::select().matmul);
  weights.advance(pool, kForever, 0);
  EXPECT_EQ(count(*file.model.decoder).experts, 0);
}

TEST(RepackedWeights, PointTheDecoderThereAndBack) {
  if (!can_repack()) GTEST_SKIP() << "scalar kernels read the file's order";
  File file(tensor::DType::q8_0);
  threads::Pool pool(2);
  {
    RepackedWeights weights(*file.model.decoder, *file.model.source, kernels::select().matmul);
    EXPECT_EQ(count(*file.model.decoder).repacked, 0) << "nothing before it is told to";
    weights.advance(pool, 0, 0);
    EXPECT_EQ(weights.repacked_bytes(), 0) << "no time, nothing repacked";
    weights.advance(pool, kForever, 0);
    EXPECT_TRUE(weights.done());
    const Counter counter = count(*file.model.decoder);
    EXPECT_GT(counter.repacked, 0);
    EXPECT_EQ(counter.repacked, weights.repacked_bytes());
    EXPECT_EQ(counter.experts, 2 * 8 * 3) << "every expert's three matrices, in both layers";
    EXPECT_EQ(counter.looked_up, 0);
    int64_t held = 0;
    for (const checkpoint::TensorInfo& tensor : file.model.source->tensors())
      if (weights.holds(tensor.bytes)) held += static_cast<int64_t>(tensor.bytes.size());
    EXPECT_EQ(held, weights.repacked_bytes());
  }
  EXPECT_EQ(count(*file.model.decoder).repacked, 0) << "the memory is gone, so is every pointer into it";
}

TEST(RepackedWeights, AdvanceBitByBit) {
  if (!can_repack()) GTEST_SKIP() << "scalar kernels read the file's order";
  File file(tensor::DType::q8_0);
  threads::Pool pool(1);
  RepackedWeights weights(*file.model.decoder, *file.model.source, kernels::select().matmul);
  int calls = 0;
  for (int64_t before = -1; !weights.done() && calls < 10000; ++calls) {
    EXPECT_GE(weights.repacked_bytes(), before);
    before = weights.repacked_bytes();
    weights.advance(pool, 1e-7, 0);
  }
  EXPECT_TRUE(weights.done());
  EXPECT_GT(calls, 3);
  EXPECT_GT(weights.repacked_bytes(), 0);
  EXPECT_EQ(count(*file.model.decoder).repacked, weights.repacked_bytes());
}

TEST(RepackedWeights, MemoryThatIsShortEndsIt) {
  File file(tensor::DType::q8_0);
  threads::Pool pool(1);
  RepackedWeights weights(*file.model.decoder, *file.model.source, kernels::select().matmul);
  weights.advance(pool, kForever, INT64_MAX / 2);
  EXPECT_TRUE(weights.done());
  EXPECT_EQ(weights.repacked_bytes(), 0);
}

TEST(RepackedWeights, WhatLiesInNoFileStaysWhereItIs) {
  families::Model model = test::tiny_model(false, 256, 1, tensor::DType::q8_0);
  threads::Pool pool(1);
  RepackedWeights weights(*model.decoder, *model.source, kernels::select().matmul);
  EXPECT_TRUE(weights.done());
}

TEST(RepackedWeights, RoutersStayInTheFile) {
  File file(tensor::DType::f32, kWide);
  threads::Pool pool(1);
  RepackedWeights weights(*file.model.decoder, *file.model.source, kernels::select().matmul);
  weights.advance(pool, kForever, 0);
  const Counter counter = count(*file.model.decoder);
  EXPECT_EQ(counter.routers, 0) << "not only matmuls read them";
  EXPECT_EQ(counter.experts, can_repack() ? 2 * 16 * 3 : 0);
}

TEST(RepackedWeights, InF32NothingIsRepacked) {
  for (const tensor::DType dtype : {tensor::DType::q8_0, tensor::DType::f32}) {
    File file(dtype, tensor::is_block(dtype) ? test::TinySizes{} : kWide);
    EngineOptions options;
    options.precision = ops::Precision::f32;
    Engine engine(std::move(file.model), options);
    engine.move_all_weights();
    EXPECT_EQ(count(*engine.model().decoder).repacked, 0) << tensor::name(dtype);
  }
}

// A law: how repacked weights are walked is a matter of speed alone.
TEST(RepackedWeights, NoWalkChangesABit) {
  for (const tensor::DType dtype : {tensor::DType::q4_k, tensor::DType::q8_0, tensor::DType::bf16}) {
    std::vector<std::vector<uint32_t>> first;
    for (const char* walk : {"1:0", "1:2304", "2:2304", "4:0", "4:2304"}) {
      ::setenv("COTERIE_READ_AHEAD", walk, 1);
      File file(dtype);
      EngineOptions options;
      options.threads = 2;
      Engine engine(std::move(file.model), options);
      ::unsetenv("COTERIE_READ_AHEAD");
      EXPECT_EQ(engine.context().read_ahead.streams, walk[0] - '0');
      const std::vector<std::vector<uint32_t>> found = steps_of(engine, true);
      if (first.empty()) first = found;
      EXPECT_EQ(found, first) << tensor::name(dtype) << " by " << walk;
    }
  }
}

TEST(RepackedWeights, AnUnknownWalkIsRefusedForAnyModel) {
  ::setenv("COTERIE_READ_AHEAD", "3:2304", 1);
  File file(tensor::DType::f32);
  EXPECT_THROW(Engine(std::move(file.model), EngineOptions{}), base::Error);
  ::unsetenv("COTERIE_READ_AHEAD");
}

}  // namespace
}  // namespace coterie::runtime
