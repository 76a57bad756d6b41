#include "base/yaml.h"

#include <gtest/gtest.h>

namespace coterie::base {
namespace {

std::string message_of(std::string_view text) {
  try {
    parse_yaml(text, "recipe.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::bad_input);
    EXPECT_EQ(error.where(), "recipe.yaml");
    return error.message();
  }
  return "no error";
}

TEST(Yaml, ScalarsAreOfTheTypeTheyLookLike) {
  const Json json = parse_yaml(
      "a: 1\nb: -2.5e-3\nc: true\nd: ~\ne: '1'\nf: \"true\"\ng: 1e-3\nh: 0x10\ni: plain words\nj: .5\nk: +7\nl: 1.\n"
      "m: 99999999999999999999\nn:\no: 1_000\n",
      "recipe.yaml");
  EXPECT_EQ(json["a"], 1);
  EXPECT_EQ(json["b"], -0.0025);
  EXPECT_EQ(json["c"], true);
  EXPECT_TRUE(json["d"].is_null());
  EXPECT_EQ(json["e"], "1");
  EXPECT_EQ(json["f"], "true");
  EXPECT_EQ(json["g"], 0.001);
  EXPECT_EQ(json["h"], "0x10");
  EXPECT_EQ(json["i"], "plain words");
  EXPECT_EQ(json["j"], 0.5);
  EXPECT_EQ(json["k"], 7);
  EXPECT_EQ(json["l"], 1.0);
  EXPECT_EQ(json["m"], 1e20);
  EXPECT_TRUE(json["n"].is_null());
  EXPECT_EQ(json["o"], "1_000");
}

TEST(Yaml, InfinitiesAreReadAsNumbers) {
  const Json json = parse_yaml("a: .inf\nb: -.Inf\n", "recipe.yaml");
  JsonReader reader(json, "recipe.yaml");
  EXPECT_EQ(reader.number("a"), std::numeric_limits<double>::infinity());
  EXPECT_EQ(reader.number("b"), -std::numeric_limits<double>::infinity());
}

TEST(Yaml, ListsMapsAndAliases) {
  const Json json = parse_yaml("base: &b {x: [1, two, 3.0]}\nagain: *b\n", "recipe.yaml");
  EXPECT_EQ(json["again"]["x"], Json::array({1, "two", 3.0}));
  EXPECT_EQ(json["again"], json["base"]);
  EXPECT_TRUE(parse_yaml("", "recipe.yaml").is_null());
}

TEST(Yaml, RefusesWhatIsNoRecipe) {
  EXPECT_EQ(message_of("a: 1\nb: 2\na: 3\n"), "line 3, column 1: this is the key \"a\" a second time");
  EXPECT_EQ(message_of("a: [1, 2\n"), "line 2, column 1: end of sequence flow not found");
  EXPECT_EQ(message_of("? [a, b]\n: 1\n"), "line 1, column 3: this is a key that is not a word");
  EXPECT_EQ(message_of("a: 1\n---\nb: 2\n"), "has 2 YAML documents, expected one");
  EXPECT_NE(message_of(std::string(70, '[') + std::string(70, ']')).find("nested deeper than 64"), std::string::npos);
  EXPECT_NE(message_of(std::string(100000, '[')), "no error");
  std::string bomb = "l0: &l0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 8; ++i) {
    bomb += fmt::format("l{0}: &l{0} [", i);
    for (int k = 0; k < 10; ++k) bomb += fmt::format("{}*l{}", k ? ", " : "", i - 1);
    bomb += "]\n";
  }
  EXPECT_NE(message_of(bomb).find("stands for more than 100000 values"), std::string::npos);
}

TEST(Yaml, UnknownKeysAreNamedWithWhatWasMeant) {
  const Json json = parse_yaml("warm_up: 10\nsteps: 5\n", "recipe.yaml");
  JsonReader reader(json, "recipe.yaml");
  reader.integer("warmup", 0), reader.integer("steps");
  try {
    reader.refuse_unread();
    FAIL() << "warm_up is not known";
  } catch (const Error& error) {
    EXPECT_EQ(error.message(), "key \"warm_up\" is not known");
    EXPECT_EQ(error.hint(), "did you mean \"warmup\"?");
  }
}

}  // namespace
}  // namespace coterie::base
