#include <gtest/gtest.h>

#include "cli/print_model.h"
#include "cli/print_numbers.h"
#include "cli/print_router.h"

namespace coterie::cli {
namespace {

TEST(NumberWords, GroupsThousands) {
  EXPECT_EQ(grouped(0), "0");
  EXPECT_EQ(grouped(999), "999");
  EXPECT_EQ(grouped(1000), "1,000");
  EXPECT_EQ(grouped(46702792704), "46,702,792,704");
  EXPECT_EQ(grouped(-123456), "-123,456");
}

TEST(NumberWords, AbbreviatesAsTheFieldDoes) {
  EXPECT_EQ(abbreviated(512), "512");
  EXPECT_EQ(abbreviated(32768), "32.8K");
  EXPECT_EQ(abbreviated(134515008), "134.5M");
  EXPECT_EQ(abbreviated(46702792704), "46.7B");
  EXPECT_EQ(percent(0.1234), "12.3 %");
  EXPECT_EQ(percent(0.0000224), "0.002 %");
  EXPECT_EQ(percent(0), "0.0 %");
  EXPECT_EQ(plain(1000000), "1,000,000");
  EXPECT_EQ(plain(0.25), "0.25");
}

TEST(ModelWords, Ranges) {
  EXPECT_EQ(ranges({}), "");
  EXPECT_EQ(ranges({3}), "3");
  EXPECT_EQ(ranges({0, 1, 2, 3}), "0-3");
  EXPECT_EQ(ranges({0, 2, 3, 7}), "0, 2-3, 7");
}

TEST(ModelWords, RouterFormulas) {
  using Router = layers::RouterSpec;
  Router router;
  router.experts = 8, router.experts_per_token = 2, router.renormalise = true;
  EXPECT_EQ(router_formula(router), "p = softmax(h); experts = the 2 largest p; weight = p / sum of the chosen p");
  router.renormalise = false, router.experts_per_token = 1, router.scale = 2.5f;
  EXPECT_EQ(router_formula(router), "p = softmax(h); experts = the largest p; weight = 2.5 × p (not renormalised)");
  router = {};
  router.experts = 8, router.experts_per_token = 4, router.order = Router::Order::select_then_score;
  EXPECT_EQ(router_formula(router), "experts = the 4 largest h; weight = softmax over the chosen h");
  router.order = Router::Order::score_then_select, router.selection = Router::Selection::sample;
  router.temperature = 0.5f, router.score = Router::Score::sigmoid;
  EXPECT_EQ(router_formula(router),
            "p = sigmoid(h); experts = 4 drawn without replacement in proportion to softmax(h / 0.5); weight = p (not "
            "renormalised)");
  router = {};
  router.experts = 256, router.experts_per_token = 8, router.score = Router::Score::sigmoid;
  router.selection_bias = router.renormalise = true, router.scale = 2.5f;
  router.groups = 8, router.groups_kept = 4, router.group_score = Router::GroupScore::best_two;
  EXPECT_EQ(router_formula(router),
            "p = sigmoid(h); experts = the 8 largest p + b in the 4 of 8 groups with the largest sum of their two best "
            "p + b; weight = 2.5 × p / sum of the chosen p");
  router = {};
  router.experts = 16, router.experts_per_token = 2, router.selection = Router::Selection::sparsemixer;
  EXPECT_EQ(router_formula(router),
            "2 times the largest h left, with weight = its softmax among those left within 0.02 of it");
}

}  // namespace
}  // namespace coterie::cli
