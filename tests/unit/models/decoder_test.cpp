#include "models/decoder.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/error.h"
#include "kernels/table.h"
#include "layers/resident_state.h"
#include "models/account.h"
#include "tiny_model.h"

namespace coterie::models {
namespace {

using Logits = SequenceStep::Logits;

class DecoderTest : public testing::Test {
 protected:
  layers::ResidentState state() {
    layers::ResidentState fresh(cache_block_bytes(model.decoder->spec(), tensor::DType::f32), tensor::DType::f32);
    fresh.reserve(64);
    return fresh;
  }
  tensor::Matrix forward(std::vector<SequenceStep> steps, layers::Observer* observer = nullptr) {
    ops::Context context{pool, kernels::by_name("scalar"), arena, ops::Precision::f32};
    return model.decoder->forward(context, steps, {.observer = observer});
  }

  tiny::Model model = tiny::make("qwen3_moe");
  threads::Pool pool{1};
  tensor::Arena arena;
  const std::vector<int32_t> ids = {3, 1, 4, 1, 5, 9, 2, 6};
};

TEST_F(DecoderTest, LogitsOfTheRowsAskedForInTheOrderOfTheSteps) {
  layers::ResidentState a = state(), b = state(), c = state(), d = state();
  const tensor::Matrix all = forward({{.ids = ids, .state = &a, .logits = Logits::all}});
  ASSERT_EQ(all.rows, 8);
  ASSERT_EQ(all.cols, 67);
  const tensor::Matrix mixed = forward({{.ids = ids, .state = &b, .logits = Logits::none},
                                        {.ids = ids, .state = &c, .logits = Logits::last},
                                        {.ids = std::span(ids).first(2), .state = &d, .logits = Logits::all}});
  ASSERT_EQ(mixed.rows, 3);
  for (int64_t v = 0; v < 67; ++v) {
    EXPECT_EQ(mixed.row(0)[v], all.row(7)[v]);
    EXPECT_EQ(mixed.row(1)[v], all.row(0)[v]);
    EXPECT_EQ(mixed.row(2)[v], all.row(1)[v]);
  }
}

TEST_F(DecoderTest, NothingToDo) {
  layers::ResidentState a = state();
  EXPECT_EQ(forward({}).rows, 0);
  EXPECT_EQ(forward({{.ids = {}, .state = &a, .logits = Logits::all}}).rows, 0);
  EXPECT_EQ(forward({{.ids = ids, .state = &a, .logits = Logits::none}}).rows, 0);
}

TEST_F(DecoderTest, IdsOutsideTheVocabularyAreRefused) {
  for (const int32_t bad : {-1, 67, 1 << 30}) {
    layers::ResidentState a = state();
    const std::vector<int32_t> wrong = {1, 2, bad};
    try {
      forward({{.ids = wrong, .state = &a}});
      FAIL() << bad;
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
      const std::string message = error.what();
      EXPECT_NE(message.find(std::to_string(bad)), std::string::npos) << message;
      EXPECT_NE(message.find("position 2"), std::string::npos) << message;
    }
  }
}

TEST_F(DecoderTest, TheObserverHearsEveryRouter) {
  struct Listener : layers::Observer {
    std::vector<int64_t> layers;
    void plan(int64_t layer, const ops::RoutingPlan& plan, tensor::ConstMatrix logits) override {
      layers.push_back(layer);
      EXPECT_EQ(plan.tokens, 8);
      EXPECT_EQ(plan.slots(), 8 * 4);
      EXPECT_EQ(logits.cols, 16);
    }
  } listener;
  layers::ResidentState a = state();
  forward({{.ids = ids, .state = &a}}, &listener);
  EXPECT_EQ(listener.layers, (std::vector<int64_t>{0, 2}));  // layer 1 is dense
}

// The visitor of a bound model sees the bytes that the account counts.
TEST_F(DecoderTest, VisitsEveryWeightOnce) {
  struct Sum : layers::TensorReader {
    int64_t total = 0;
    std::vector<std::string> paths;
    void matrix(const Tensor& t, int64_t rows, int64_t cols, const tensor::Weight& slot) override {
      EXPECT_TRUE(slot) << t.path;
      EXPECT_EQ(slot.rows, rows);
      EXPECT_EQ(slot.cols, cols);
      total += slot.rows * slot.cols, paths.push_back(t.path);
    }
    void vector(const Tensor& t, int64_t n, const layers::Vector& slot) override {
      EXPECT_EQ(slot.values.size(), n) << t.path;
      total += n, paths.push_back(t.path);
    }
    void stack(const Tensor& t, int64_t experts, int64_t, int64_t, const std::vector<tensor::Weight>& slots) override {
      EXPECT_EQ(static_cast<int64_t>(slots.size()), experts) << t.path;
      for (const tensor::Weight& slot : slots) total += slot.rows * slot.cols;
      paths.push_back(t.path);
    }
  } sum;
  model.decoder->read(sum);
  EXPECT_EQ(sum.total, account(model.decoder->spec()).total());
  std::sort(sum.paths.begin(), sum.paths.end());
  EXPECT_EQ(std::unique(sum.paths.begin(), sum.paths.end()), sum.paths.end());
  EXPECT_TRUE(std::binary_search(sum.paths.begin(), sum.paths.end(), "blocks.2.moe.experts.gate"));
}

TEST_F(DecoderTest, TheCacheHoldsUnlessRopeIsDynamic) { EXPECT_TRUE(model.decoder->cache_holds(10, 5000)); }

}  // namespace
}  // namespace coterie::models
