#include "families/config/router_keys.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace coterie::families {
namespace {

using layers::RouterSpec;

base::Json parse(const std::string& text) { return base::parse_json(text, "test"); }
std::string refusal(const std::string& text) {
  try {
    read_router(parse(text), "router");
  } catch (const base::Error& error) {
    return error.what();
  }
  return "";
}

TEST(RouterKeys, WhatIsNotSaidIsRouterSpecsDefault) {
  const RouterSpec found = read_router(parse(R"({"experts": 8, "experts_per_token": 2})"), "router");
  RouterSpec expected;
  expected.experts = 8, expected.experts_per_token = 2;
  EXPECT_EQ(write_router(found), write_router(expected));
}

// Every key, there and back: as text, since a RouterSpec has no comparison.
TEST(RouterKeys, WrittenAndReadAgain) {
  for (const char* text : {
           R"({"experts":8,"experts_per_token":2,"selection":"top_k","score":"softmax","order":"select_then_score",
               "renormalise":false,"bias":true})",
           R"({"experts":8,"experts_per_token":2,"selection":"sample","score":"sigmoid","order":"score_then_select",
               "renormalise":true,"renormalise_epsilon":1e-9,"temperature":0.7,"scale":2.5,"selection_bias":true,
               "groups":4,"groups_kept":2,"group_score":"best_two"})",
           R"({"experts":4,"experts_per_token":2,"selection":"sparsemixer","score":"softmax",
               "order":"score_then_select","renormalise":false,"near_best":0.1})",
           R"({"experts":8,"experts_per_token":2,"selection":"top_k","score":"softmax","order":"select_then_score",
               "renormalise":false,"bias":true,"noise":true,"noise_bias":true,"jitter":0.01,"hidden":16,
               "capacity":{"factor":1.25,"order":"probability","next_best":true}})",
           R"({"experts":8,"experts_per_token":2,"selection":"top_k","score":"softmax","order":"score_then_select",
               "renormalise":false,"combine":"sum"})",
           R"({"experts":4,"experts_per_token":2,"selection":"hash","score":"softmax","order":"score_then_select",
               "renormalise":false,"combine":"sum","hash_seed":5})",
           R"({"experts":4,"experts_per_token":4,"selection":"soft","score":"softmax","order":"score_then_select",
               "renormalise":false,"slots":3})",
           R"({"experts":4,"experts_per_token":1,"selection":"base","score":"sigmoid","order":"score_then_select",
               "renormalise":false})",
           R"({"experts":4,"experts_per_token":1,"selection":"top_k","score":"sqrt_softplus",
               "order":"score_then_select","renormalise":false})",
       })
    EXPECT_EQ(write_router(read_router(parse(text), "router")), parse(text));
}

TEST(RouterKeys, RefusesWhatItDoesNotHonour) {
  EXPECT_NE(refusal(R"({"experts": 8})").find("experts_per_token"), std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "renormalize": true})").find("renormalise"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "score": "tanh"})").find("sqrt_softplus"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "temperature": 2})").find("sample"), std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 9})").find("9"), std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "selection": "best"})").find("sparsemixer"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "noise_bias": true})").find("noise"), std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "capacity": {"factor": 0}})").find("no token is dropped"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "capacity": {"factor": 1, "nextbest": true}})")
                .find("next_best"),
            std::string::npos);
  EXPECT_NE(refusal(R"({"experts": 8, "experts_per_token": 2, "combine": "sum", "renormalise": true})").find("weights"),
            std::string::npos);
}

}  // namespace
}  // namespace coterie::families
