// Prefixes that outlive the process.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/rng.h"
#include "serve/page_fingerprint.h"
#include "support/temp_folder.h"
#include "unit/runtime/tiny_model.h"
#include "unit/serve/collector.h"

namespace coterie::serve {
namespace {

using runtime::test::fixture;
using runtime::test::tiny_model;
using test::Answer;
using test::Served;

Request asking(int64_t length, uint64_t seed, bool routes) {
  base::Rng rng(seed);
  Request request = test::greedy({}, 6);
  for (int64_t i = 0; i < length; ++i) request.prompt.push_back(static_cast<TokenId>(rng.below(60)));
  request.logprobs = 2;
  request.routed_experts = routes;
  return request;
}

SchedulerOptions kept_in(const TempFolder& folder, const std::string& fingerprint = "this engine") {
  SchedulerOptions options;
  options.cache_dir = (folder.path() / "pages").string();
  options.fingerprint = fingerprint;
  options.cache_memory = 64 << 20;
  return options;
}

void expect_same(const Answer& a, const Answer& b) {
  ASSERT_TRUE(a.finished && b.finished);
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.logprobs, b.logprobs);
  EXPECT_EQ(a.finished->routed_experts.experts, b.finished->routed_experts.experts);
}

std::vector<std::filesystem::path> files_in(const TempFolder& folder) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path() / "pages")) files.push_back(entry.path());
  return files;
}

TEST(Disk, TheNextProcessGoesOnWhereThisOneWas) {
  const TempFolder folder;
  const Request request = asking(100, 1, true);
  Answer first;
  {
    Served served(tiny_model(), kept_in(folder));
    first = served.run(request);
    EXPECT_GE(served.settled().counters.disk_pages_written, 6U);
  }
  Served served(tiny_model(), kept_in(folder));
  const Answer again = served.run(request);
  EXPECT_EQ(again.finished->usage.cached_tokens, 96);
  expect_same(first, again);
  const Counters counters = served.settled().counters;
  EXPECT_EQ(counters.evaluated_prompt_tokens, 4U);
  EXPECT_GE(counters.disk_pages_read, 6U);
  EXPECT_EQ(counters.disk_pages_written, 0U) << "a page is written once";
}

TEST(Disk, RecurrentStatesComeBackToo) {
  const TempFolder folder;
  Request request = asking(70, 2, false);
  Answer first;
  {
    Served served(families::open_model(fixture("mamba2")), kept_in(folder));
    first = served.run(request);
  }
  Served served(families::open_model(fixture("mamba2")), kept_in(folder));
  const Answer again = served.run(request);
  EXPECT_EQ(again.finished->usage.cached_tokens, 64);
  expect_same(first, again);
}

TEST(Disk, AnotherEngineOrAnotherSaltFindsNothing) {
  const TempFolder folder;
  Request request = asking(100, 1, false);
  Served(tiny_model(), kept_in(folder)).run(request);
  EXPECT_EQ(Served(tiny_model(), kept_in(folder, "another")).run(request).finished->usage.cached_tokens, 0);
  request.cache_salt = "mine";
  EXPECT_EQ(Served(tiny_model(), kept_in(folder)).run(request).finished->usage.cached_tokens, 0);
}

TEST(Disk, EachFieldOfTheEngineKeepsPagesApart) {
  const EngineFields same{.files = "f",
                          .adapter = "a",
                          .router = "r",
                          .experts_per_token = 2,
                          .rope = "o",
                          .cache_type = "c",
                          .precision = "p",
                          .kernels = "k",
                          .version = "v",
                          .page_bytes = 1,
                          .route_values = 2,
                          .state_floats = 3};
  std::vector<EngineFields> others(12, same);
  others[0].files = "", others[1].adapter = "", others[2].router = "", others[3].experts_per_token = 3;
  others[4].rope = "", others[5].cache_type = "", others[6].precision = "", others[7].kernels = "";
  others[8].version = "", others[9].page_bytes = 9, others[10].route_values = 9, others[11].state_floats = 9;
  for (const EngineFields& other : others) EXPECT_NE(page_fingerprint(other), page_fingerprint(same));
  EngineFields moved = same;  // the same letters, cut elsewhere
  moved.files = "fa", moved.adapter = "";
  EXPECT_NE(page_fingerprint(moved), page_fingerprint(same));
}

TEST(Disk, DamagedPagesAreComputedAnew) {
  const TempFolder folder;
  const Request request = asking(100, 1, true);
  const Answer first = Served(tiny_model(), kept_in(folder)).run(request);
  const auto files = files_in(folder);
  ASSERT_EQ(files.size(), 1U);
  {
    std::fstream file(files[0], std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(std::filesystem::file_size(files[0]) / 2));
    file.put('\x55').put('\x2a').put('\x55').put('\x2a');
  }
  Served served(tiny_model(), kept_in(folder));
  const Answer again = served.run(request);
  expect_same(first, again);
  EXPECT_LT(again.finished->usage.cached_tokens, 96);
}

TEST(Disk, AnInterruptedWriteCostsItsPageAlone) {
  const TempFolder folder;
  const Request request = asking(100, 1, true);
  const Answer first = Served(tiny_model(), kept_in(folder)).run(request);
  const auto file = files_in(folder).at(0);
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 7);
  Served served(tiny_model(), kept_in(folder));
  const Answer again = served.run(request);
  expect_same(first, again);
  EXPECT_GE(again.finished->usage.cached_tokens, 80);
}

TEST(Disk, StaysWithinItsLimit) {
  const TempFolder folder;
  SchedulerOptions options = kept_in(folder);
  options.cache_dir_bytes = 200'000;
  Served served(tiny_model(), options);
  for (uint64_t seed = 0; seed < 40; ++seed) served.run(asking(100, seed, false));
  std::uintmax_t bytes = 0;
  for (const auto& file : files_in(folder)) bytes += std::filesystem::file_size(file);
  EXPECT_GT(bytes, 50'000U);
  EXPECT_LT(bytes, 260'000U);  // a path may be begun when there is one byte left
  EXPECT_LE(files_in(folder).size(), 2U);
}

TEST(Disk, IsUsedByOneServerAtATime) {
  const TempFolder folder;
  const Served served(tiny_model(), kept_in(folder));
  EXPECT_THROW(Served(tiny_model(), kept_in(folder)), base::Error);
}

}  // namespace
}  // namespace coterie::serve
