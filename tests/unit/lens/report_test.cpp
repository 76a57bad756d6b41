#include "lens/report.h"

#include <gtest/gtest.h>

#include <fstream>

#include "base/error.h"
#include "lens/run_table.h"
#include "support/temp_folder.h"

namespace coterie::lens {
namespace {

struct Reports : testing::Test {
  RunLog log(const std::string& text, const std::string& name = "run") const {
    std::filesystem::create_directories(folder / name);
    std::ofstream(folder / name / "log.jsonl") << text;
    return read_run_log(folder / name);
  }
  std::string message_of(const std::string& text) const {
    try {
      log(text);
    } catch (const base::Error& error) {
      return error.message();
    }
    return "no error";
  }
  TempFolder folder;
};

constexpr const char* kStart = "{\"kind\":\"start\",\"parameters\":5,\"expert_layers\":[0]}\n";

TEST_F(Reports, AResumedRunIsOneRun) {
  const RunLog run = log(std::string(kStart) +
                         "{\"kind\":\"step\",\"step\":1,\"loss\":3}\n{\"kind\":\"step\",\"step\":2,\"loss\":2}\n"
                         "{\"kind\":\"step\",\"step\":3,\"loss\":9}\n{\"kind\":\"evaluation\",\"step\":3}\n"
                         "{\"kind\":\"resume\",\"step\":2}\n{\"kind\":\"step\",\"step\":3,\"loss\":1}\n"
                         "{\"kind\":\"routers\",\"step\":3,\"load\":[[1]]}\n{\"kind\":\"st");
  EXPECT_EQ(run.name, "run");
  ASSERT_EQ(run.steps.size(), 3u);
  EXPECT_EQ(run.steps[2]["loss"], 1);
  EXPECT_TRUE(run.evaluations.empty());
  EXPECT_EQ(run.routers.size(), 1u);
  EXPECT_FALSE(run.ended);
}

TEST_F(Reports, AnEvaluationThatWasDoneAgainCountsOnce) {
  const RunLog run = log(std::string(kStart) + "{\"kind\":\"evaluation\",\"step\":3,\"train\":1}\n" +
                         "{\"kind\":\"resume\",\"step\":3}\n{\"kind\":\"evaluation\",\"step\":3,\"train\":1}\n");
  EXPECT_EQ(run.evaluations.size(), 1u);
}

TEST_F(Reports, TheTableSaysHowRunsEnded) {
  const std::vector<RunLog> runs = {
      log(std::string(kStart) +
              "{\"kind\":\"evaluation\",\"step\":3,\"tokens\":1500000,\"train\":1,\"validation\":1.25}\n"
              "{\"kind\":\"routers\",\"step\":3,\"load\":[[2,0],[1,1]],\"max_load\":[2,1],\"load_cv\":[1,0],"
              "\"dead\":[1,0],\"entropy\":[0.5,0.6],\"dropped\":[0.5,0],\"overflow\":[0,0]}\n"
              "{\"kind\":\"step\",\"step\":5,\"tokens\":2500000}\n",
          "one"),
      log(kStart, "dense")};
  EXPECT_EQ(run_table(runs),
            "run    steps  tokens  train  validation  max load  load CV  dead  entropy  dropped  overflow  ended\n"
            "one        5  2.50 M  1.000       1.250      1.50     0.50     1     0.55   25.0 %     0.0 %     no\n"
            "dense      0       0      -           -         -        -     -        -        -         -     no\n");
  EXPECT_EQ(runs_in(folder.path()).size(), 2u);
  EXPECT_EQ(runs_in(folder / "one"), std::vector{folder / "one"});
}

TEST_F(Reports, RunsOfOneNameAreToldApart) {
  std::vector<RunLog> runs;
  for (const char* name : {"a/one/dense", "a/two/dense", "b/one/dense", "b/moe", "b/moe"})
    runs.push_back(log(kStart, name));
  tell_apart(runs);
  std::vector<std::string> names;
  for (const RunLog& run : runs) names.push_back(run.name);
  EXPECT_EQ(names, (std::vector<std::string>{"a/one/dense", "two/dense", "b/one/dense", "moe", "moe"}));
}

TEST_F(Reports, WhatIsNoLogIsRefused) {
  EXPECT_EQ(message_of(""), "does not say how the run began");
  EXPECT_EQ(message_of(std::string(kStart) + "[1]\n"), "expected an object, found array");
  EXPECT_EQ(message_of(std::string(kStart) + "{\"kind\":\"stop\",\"step\":1}\n"), "\"stop\" is not a kind of event");
  EXPECT_EQ(message_of(std::string(kStart) + "{\"kind\":\"step\"}\n"), "key \"step\" is missing");
  EXPECT_THROW(read_run_log(folder / "absent"), base::Error);
}

TEST_F(Reports, ThePageHoldsTheRunsAndNothingFromOutside) {
  const std::vector<RunLog> runs = {log(kStart, "one"),
                                    log("{\"kind\":\"start\",\"description\":\"</script><b>\"}\n", "two")};
  const std::string page = training_report(runs);
  EXPECT_NE(page.find("\"name\":\"one\""), std::string::npos);
  EXPECT_NE(page.find("\"name\":\"two\""), std::string::npos);
  EXPECT_EQ(page.find("/*DATA*/"), std::string::npos);
  EXPECT_NE(page.find("\\u003c/script>"), std::string::npos);
  EXPECT_EQ(page.find("<b>"), std::string::npos);
  // Nothing is fetched: no address but that of SVG's namespace.
  size_t addresses = 0;
  for (size_t at = page.find("http"); at != std::string::npos; at = page.find("http", at + 1))
    addresses += page.compare(at, 27, "http://www.w3.org/2000/svg\"") != 0;
  EXPECT_EQ(addresses, 0u);
}

}  // namespace
}  // namespace coterie::lens
