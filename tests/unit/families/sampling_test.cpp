#include <gtest/gtest.h>

#include "base/error.h"
#include "families/recommended_sampling.h"

namespace coterie::families {
namespace {

using base::Json;

std::string refusal(const Json& config) {
  try {
    recommended_sampling(config, "here/generation_config.json");
    return "";
  } catch (const base::Error& error) {
    return error.what();
  }
}

TEST(RecommendedSampling, IsReadByTransformersNames) {
  const RecommendedSampling read = recommended_sampling(Json{{"do_sample", true},
                                                             {"temperature", 0.6},
                                                             {"top_k", 20},
                                                             {"top_p", 0.95},
                                                             {"min_p", nullptr},
                                                             {"eos_token_id", 2}},
                                                        "x");
  EXPECT_EQ(read, (RecommendedSampling{{"temperature", 0.6}, {"top_k", 20}, {"top_p", 0.95}}));
  EXPECT_EQ(recommended_sampling(Json{{"repetition_penalty", 1.1}}, "x"),
            (RecommendedSampling{{"repeat_penalty", 1.1}, {"repeat_last_n", -1}}))
      << "transformers penalises all tokens";
  EXPECT_EQ(recommended_sampling(Json{{"do_sample", false}, {"temperature", 0.6}}, "x"), RecommendedSampling{});
  EXPECT_EQ(recommended_sampling(Json{{"top_k", -1}}, "x"), (RecommendedSampling{{"top_k", 0}}));
}

TEST(RecommendedSampling, IsRefusedOutsideItsRange) {
  EXPECT_NE(refusal({{"temperature", -1}}).find("temperature: expected a number of 0 or more, found -1"),
            std::string::npos);
  EXPECT_NE(refusal({{"top_p", 1.5}}).find("top_p"), std::string::npos);
  EXPECT_NE(refusal({{"top_p", 0}}).find("above 0"), std::string::npos);
  EXPECT_NE(refusal({{"top_k", 2.5}}).find("an integer"), std::string::npos);
  EXPECT_NE(refusal({{"repetition_penalty", "high"}}).find("something else"), std::string::npos);
}

TEST(RecommendedSampling, IsWrittenAsItWasRead) {
  const RecommendedSampling sampling = {
      {"temperature", 0.7}, {"top_k", 20}, {"repeat_penalty", 1.1}, {"repeat_last_n", -1}};
  Json config = {{"eos_token_id", 2}};
  add_sampling(sampling, config);
  EXPECT_EQ(recommended_sampling(config, "x"), sampling);
  EXPECT_EQ(config["do_sample"], true);
  EXPECT_EQ(config["eos_token_id"], 2);
  checkpoint::Metadata metadata;
  add_sampling(sampling, metadata);
  EXPECT_EQ(std::get<double>(metadata.at("general.sampling.temp")), 0.7);
  EXPECT_EQ(std::get<int64_t>(metadata.at("general.sampling.top_k")), 20);
  EXPECT_EQ(std::get<double>(metadata.at("general.sampling.penalty_repeat")), 1.1);
  EXPECT_EQ(std::get<int64_t>(metadata.at("general.sampling.penalty_last_n")), -1);
  EXPECT_EQ(metadata.size(), 4u);
}

}  // namespace
}  // namespace coterie::families
