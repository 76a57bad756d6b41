#include "base/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace coterie::base {
namespace {

TEST(ParseJson, NamesThePlaceOfAnError) {
  expect_error(ErrorKind::bad_input, {"config.json", "not valid JSON", "line 2"},
               [] { parse_json("{\"a\": 1,\n oops}", "config.json"); });
  expect_error(ErrorKind::bad_input, {"not valid JSON"}, [] { parse_json("", "x"); });
  expect_error(ErrorKind::bad_input, {"not valid JSON"}, [] { parse_json("{} {}", "x"); });
  expect_error(ErrorKind::bad_input, {"not valid JSON"}, [] { parse_json("\"\xff\"", "x"); });
  expect_error(ErrorKind::bad_input, {"not valid JSON", "overflow"}, [] { parse_json("[1e999]", "x"); });
}

TEST(ParseJson, RefusesDeepNestingBeforeBuildingIt) {
  const std::string deep(1'000'000, '[');
  expect_error(ErrorKind::bad_input, {"nested deeper than 200"}, [&] { parse_json(deep, "x"); });
  const std::string allowed = std::string(200, '[') + std::string(200, ']');
  EXPECT_NO_THROW(parse_json(allowed, "x"));
  EXPECT_EQ(parse_json("[\"[[[\\\"[[\"]", "x").size(), 1u) << "brackets in strings do not nest";
}

TEST(ParseJson, DuplicateKeys) {
  const std::string text = R"({"a": {"b": 1, "c": 2, "b": 3}})";
  EXPECT_EQ(parse_json(text, "x")["a"]["b"], 3);
  expect_error(ErrorKind::bad_input, {"\"b\"", "twice"}, [&] { parse_json(text, "x", DuplicateKeys::refuse); });
  const std::string apart = R"({"a": {"b": 1}, "c": {"b": 2, "a": [{"b": 1}, {"b": 2}]}})";
  EXPECT_EQ(parse_json(apart, "x", DuplicateKeys::refuse), parse_json(apart, "x"));
}

TEST(ParseJson, PythonsNumbers) {
  const Json json =
      parse_json(R"({"limit": [0.0, Infinity], "low": -Infinity, "nan": NaN, "NaN": "Infinity \" NaN"})", "x");
  JsonReader reader(json, "x");
  EXPECT_EQ(reader.numbers("limit")[1], std::numeric_limits<double>::infinity());
  EXPECT_EQ(reader.number("low"), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(reader.number("nan")));
  EXPECT_EQ(reader.string("NaN"), "Infinity \" NaN");
  const Json modern = parse_json(R"({"limit": {"__float__": "Infinity"}})", "x");
  EXPECT_EQ(JsonReader(modern, "x").number("limit"), std::numeric_limits<double>::infinity());
  expect_error(ErrorKind::bad_input, {"not valid JSON"}, [] { parse_json("[Infinit]", "x"); });
}

TEST(ReadJson, FromAFile) {
  const TempFolder folder;
  EXPECT_EQ(read_json(folder.write("a.json", R"({"x": 1})"))["x"], 1);
  expect_error(ErrorKind::not_found, {"absent.json"}, [&] { read_json(folder / "absent.json"); });
  expect_error(ErrorKind::bad_input, {"bad.json"}, [&] { read_json(folder.write("bad.json", "{")); });
}

TEST(JsonReader, ReadsWhatIsThere) {
  const Json json = parse_json(R"({"i": 3, "f": 2.5, "whole": 4.0, "b": true, "s": "x", "n": null, "o": {"k": 1},
                                   "is": [1, 2], "fs": [1, 2.5], "ss": ["a"]})",
                               "c");
  JsonReader reader(json, "c");
  EXPECT_EQ(reader.integer("i"), 3);
  EXPECT_EQ(reader.integer("whole"), 4);
  EXPECT_EQ(reader.number("f"), 2.5);
  EXPECT_EQ(reader.number("i"), 3.0);
  EXPECT_TRUE(reader.boolean("b"));
  EXPECT_EQ(reader.string("s"), "x");
  EXPECT_EQ(reader.integers("is"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(reader.numbers("fs"), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(reader.strings("ss"), (std::vector<std::string>{"a"}));
  ASSERT_NE(reader.object("o"), nullptr);
  EXPECT_EQ(reader.object("absent"), nullptr);
  EXPECT_EQ(reader.integer("absent", 7), 7);
  EXPECT_EQ(reader.integer("n", 8), 8) << "null counts as absent";
  EXPECT_FALSE(reader.has("n"));
  EXPECT_TRUE(reader.has("i"));
  EXPECT_EQ(reader.value("absent"), nullptr);
  EXPECT_TRUE(reader.integers("absent").empty());
}

TEST(JsonReader, RefusesOtherTypesByName) {
  const Json json = parse_json(R"({"i": 3, "f": 2.5, "s": "x", "big": 18446744073709551615, "l": [1, "x"]})", "c.json");
  JsonReader reader(json, "c.json");
  const auto refuse = [](std::string_view key, auto&& body) {
    expect_error(ErrorKind::bad_input, {"c.json", fmt::format("\"{}\"", key), "expected"}, body);
  };
  refuse("f", [&] { reader.integer("f"); });
  refuse("s", [&] { reader.integer("s"); });
  refuse("big", [&] { reader.integer("big"); });
  refuse("s", [&] { reader.number("s"); });
  refuse("i", [&] { reader.boolean("i"); });
  refuse("i", [&] { reader.string("i"); });
  refuse("l", [&] { reader.integers("l"); });
  refuse("l", [&] { reader.numbers("l"); });
  refuse("l", [&] { reader.strings("l"); });
  refuse("i", [&] { reader.integers("i"); });
  refuse("i", [&] { reader.object("i"); });
  expect_error(ErrorKind::not_found, {"c.json", "\"absent\"", "missing"}, [&] { reader.integer("absent"); });
  expect_error(ErrorKind::bad_input, {"expected a JSON object"}, [&] { JsonReader(json["l"], "c.json"); });
}

TEST(JsonReader, KnowsWhatNobodyRead) {
  const Json json = parse_json(R"({"zebra": 1, "read": 1, "inert": 1, "asked": null, "apple": 2})", "c");
  JsonReader reader(json, "c");
  reader.integer("read");
  reader.inert({"inert"});
  reader.has("zebra");
  EXPECT_EQ(reader.unread(), (std::vector<std::string>{"apple", "asked", "zebra"}));
}

}  // namespace
}  // namespace coterie::base
