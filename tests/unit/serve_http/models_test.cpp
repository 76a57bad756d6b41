// Several models by name: loaded when they are asked for, unloaded when others need the room or nobody asks.
#include "serve/api/model_shelf.h"

#include <gtest/gtest.h>

#include <future>

#include "client.h"
#include "fake_backend.h"

namespace coterie::serve::test {
namespace {

/// Models of so many bytes each, over backends that say their names.
struct Shelves {
  explicit Shelves(ModelShelfOptions options = {}, bool first_stays = false) {
    std::vector<ModelOnDemand> models;
    for (const std::string name : {"a", "b", "c"}) {
      ModelOnDemand model{.name = name, .path = "/" + name};
      model.stays = first_stays && name == "a";
      model.bytes = [] { return int64_t{100}; };
      model.load = [this, name]() -> std::shared_ptr<const ReadyModel> {
        ++loads;
        if (name == "c" && c_fails) throw base::Error(base::ErrorKind::bad_input, "/c", "is damaged", "");
        const auto served = std::make_shared<ServedModel>(fake_model());
        served->name = name;
        const auto backend = std::make_shared<FakeBackend>();
        backend->says = "I am " + name;
        return std::make_shared<ReadyModel>(ReadyModel{served, backend});
      };
      models.push_back(std::move(model));
    }
    shelf = std::make_unique<ModelShelf>(std::move(models), options);
  }
  std::string states() const {
    std::string text;
    for (const ShelvedModel& model : shelf->all()) text += name(model.state).substr(0, 1);
    return text;  // l: loaded (or loading), u: unloaded
  }
  std::atomic<int> loads{0};
  bool c_fails = false;
  std::unique_ptr<ModelShelf> shelf;
};

std::shared_ptr<const ReadyModel> opened(Shelves& shelves, const std::string& name) {
  std::promise<std::shared_ptr<const ReadyModel>> promise;
  shelves.shelf->open(name, [&](std::shared_ptr<const ReadyModel> model, const std::exception_ptr& error) {
    error ? promise.set_exception(error) : promise.set_value(std::move(model));
  });
  return promise.get_future().get();
}

TEST(Models, AreLoadedWhenTheyAreFirstAskedFor) {
  Shelves shelves({}, true);
  EXPECT_EQ(shelves.states(), "luu");
  EXPECT_EQ(opened(shelves, "a")->served->name, "a");
  EXPECT_EQ(opened(shelves, "b")->served->name, "b");
  EXPECT_EQ(shelves.states(), "llu");
  opened(shelves, "b");
  EXPECT_EQ(shelves.loads, 2);
}

TEST(Models, TheLongestUnusedMakesRoom) {
  Shelves shelves({.memory = 200});
  for (const char* name : {"a", "b", "a", "c"}) opened(shelves, name);
  EXPECT_EQ(shelves.states(), "lul");
}

TEST(Models, OneInUseIsNotUnloaded) {
  Shelves shelves({.memory = 100, .patience_seconds = 0.1});
  const auto kept = opened(shelves, "a");
  try {
    opened(shelves, "b");
    FAIL();
  } catch (const ApiError& error) {
    EXPECT_EQ(error.status, 503);
    EXPECT_GT(error.retry_after_seconds, 0);
  }
  EXPECT_EQ(shelves.states(), "luu");
}

TEST(Models, IdleOnesAreUnloadedAfterAWhile) {
  Shelves shelves({.unload_after_seconds = 0.05}, true);
  opened(shelves, "b");
  for (int i = 0; i < 100 && shelves.states() != "luu"; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_EQ(shelves.states(), "luu");
  EXPECT_EQ(opened(shelves, "b")->served->name, "b");
}

TEST(Models, WhatCannotBeLoadedSaysWhyAndMayBeTriedAgain) {
  Shelves shelves;
  shelves.c_fails = true;
  EXPECT_THROW(opened(shelves, "c"), base::Error);
  shelves.c_fails = false;
  EXPECT_EQ(opened(shelves, "c")->served->name, "c");
}

TEST(Models, RequestsChooseByName) {
  Shelves shelves;
  ServiceOptions options;
  options.http.port = 0;
  Service service(*shelves.shelf, std::move(options));
  service.start();
  const auto content = [&](const base::Json& body) {
    const Reply reply = ask(service.port(), post("/v1/completions", body.dump()));
    EXPECT_EQ(reply.status, 200) << reply.body;
    const base::Json json = base::Json::parse(reply.body);
    return json["model"].get<std::string>() + ": " + json["choices"][0]["text"].get<std::string>();
  };
  EXPECT_EQ(content({{"prompt", "x"}, {"model", "b"}}), "b: I am b");
  EXPECT_EQ(content({{"prompt", "x"}}), "a: I am a");  // the first
  const Reply unknown = ask(service.port(), post("/v1/completions", R"({"prompt": "x", "model": "d"})"));
  EXPECT_EQ(unknown.status, 404);
  EXPECT_NE(unknown.body.find("\\\"a\\\", \\\"b\\\", \\\"c\\\""), std::string::npos) << unknown.body;
  const base::Json list = base::Json::parse(ask(service.port(), get("/v1/models")).body)["data"];
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[0]["status"]["value"], "loaded");
  EXPECT_EQ(list[2]["status"]["value"], "unloaded");
  EXPECT_EQ(ask(service.port(), get("/props?model=b")).status, 200);
  EXPECT_EQ(ask(service.port(), get("/props?model=c")).status, 503);
  EXPECT_NE(ask(service.port(), get("/metrics")).body.find("{model=\"b\"}"), std::string::npos);
}

}  // namespace
}  // namespace coterie::serve::test
