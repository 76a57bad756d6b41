#include "text/constraint.h"

#include <gtest/gtest.h>

#include <regex>

#include "base/json.h"
#include "base/rng.h"
#include "support/places.h"
#include "vocabularies.h"

namespace coterie::text {
namespace {

using base::Json;

size_t words(const Tokenizer& tokenizer) { return static_cast<size_t>(tokenizer.vocabulary_size() + 31) / 32; }

std::vector<TokenId> allowed(Constraint& constraint, const Tokenizer& tokenizer) {
  std::vector<uint32_t> bits(words(tokenizer), ~0u);
  constraint.mask(bits);
  std::vector<TokenId> ids;
  for (size_t id = 0; id < 32 * bits.size(); ++id)
    if (bits[id / 32] >> (id % 32) & 1) ids.push_back(static_cast<TokenId>(id));
  return ids;
}

bool is_end(const Tokenizer& tokenizer, TokenId id) {
  const std::vector<TokenId>& ends = tokenizer.end_tokens();
  return std::find(ends.begin(), ends.end(), id) != ends.end();
}

/// What a model without any sense writes under a constraint; nothing when it has not come to an end in `most` tokens.
/// `take_forced`: whether forced tokens are taken at once.
std::optional<std::string> walk(Constraint constraint, const Tokenizer& tokenizer, uint64_t seed, int most = 4000,
                                bool take_forced = false) {
  base::Rng rng(seed);
  std::vector<TokenId> ids;
  for (int i = 0; i < most; ++i) {
    if (take_forced) {
      const std::vector<TokenId> forced = constraint.forced();
      constraint.accept(forced);
      ids.insert(ids.end(), forced.begin(), forced.end());
    }
    const std::vector<TokenId> choice = allowed(constraint, tokenizer);
    const bool ended =
        choice.empty() || std::all_of(choice.begin(), choice.end(), [&](TokenId id) { return is_end(tokenizer, id); });
    EXPECT_TRUE(ended || !constraint.finished());
    if (ended) {
      EXPECT_TRUE(constraint.complete()) << tokenizer.decode(ids);
      return tokenizer.decode(ids, false);
    }
    // A single choice takes no random number, so that forced tokens do not shift the others.
    const TokenId id =
        choice.size() == 1 ? choice[0] : choice[static_cast<size_t>(rng.uniform_double() * std::ssize(choice))];
    if (is_end(tokenizer, id)) {
      constraint.accept(id);
      EXPECT_TRUE(constraint.finished());
      return tokenizer.decode(ids, false);
    }
    constraint.accept(id);
    ids.push_back(id);
  }
  return std::nullopt;
}

const char* const kSchema = R"({
  "type": "object",
  "properties": {
    "name": {"type": "string", "minLength": 1, "maxLength": 6},
    "age": {"type": "integer", "minimum": -3, "maximum": 120},
    "kind": {"enum": ["a", "é", 7, null]},
    "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
    "code": {"type": "string", "pattern": "^[A-C]{2}-[0-9]$"}
  },
  "required": ["name", "age", "tags", "code"],
  "additionalProperties": false
})";

void expect_fits(const std::string& text) {
  const Json json = Json::parse(text, nullptr, false);
  ASSERT_TRUE(json.is_object()) << text;
  for (const auto& [key, value] : json.items())
    EXPECT_TRUE(key == "name" || key == "age" || key == "kind" || key == "tags" || key == "code") << text;
  int64_t characters = 0;
  for (const char c : json.at("name").get<std::string>()) characters += (c & 0xC0) != 0x80;
  EXPECT_TRUE(characters >= 1 && characters <= 6) << text;
  EXPECT_TRUE(json.at("age").is_number_integer()) << text;
  EXPECT_TRUE(json.at("age") >= -3 && json.at("age") <= 120) << text;
  ASSERT_TRUE(json.at("tags").is_array() && json["tags"].size() >= 1 && json["tags"].size() <= 3) << text;
  for (const Json& tag : json["tags"]) EXPECT_TRUE(tag.is_boolean()) << text;
  EXPECT_TRUE(std::regex_match(json.at("code").get<std::string>(), std::regex("[A-C]{2}-[0-9]"))) << text;
  if (json.contains("kind")) {
    EXPECT_TRUE(json["kind"] == "a" || json["kind"] == "\u00e9" || json["kind"] == 7 || json["kind"].is_null()) << text;
  }
}

struct Vocabulary {
  const char* name;
  Tokenizer tokenizer;
};

std::vector<Vocabulary> vocabularies() {
  std::vector<Vocabulary> all;
  all.push_back({"bytes", bytes({"<|end|>"})});
  all.push_back({"bytes without an end", bytes({})});
  all.push_back({"characters", trained(TokenizerRecipe::Kind::characters, {"<|end|>", "<|other|>"})});
  all.push_back({"byte-level BPE", byte_level_bpe({"<|end|>", "<|other|>"})});
  all.push_back({"SentencePiece", sentencepiece()});
  return all;
}

TEST(Constraint, WhatIsWrittenUnderASchemaFitsIt) {
  for (const Vocabulary& v : vocabularies()) {
    const Constraint schema = Constraint::json_schema(v.tokenizer, kSchema, "schema");
    int ended = 0;
    for (uint64_t seed = 0; seed < 12; ++seed) {
      const std::optional<std::string> text = walk(schema, v.tokenizer, seed);
      if (!text) continue;
      ++ended;
      SCOPED_TRACE(v.name);
      expect_fits(*text);
    }
    EXPECT_EQ(ended, 12) << v.name;
  }
}

TEST(Constraint, WhatIsWrittenUnderARegexOrAGrammarMatches) {
  const std::regex expression("(ab|c){1,3}[0-9]*x");
  for (const Vocabulary& v : vocabularies()) {
    const Constraint regex = Constraint::regex(v.tokenizer, "^(ab|c){1,3}[0-9]*x$", "regex");
    const Constraint lark =
        Constraint::lark(v.tokenizer, "start: item (\",\" item)* \".\"\nitem: \"[\" [start] \"]\"\n", "grammar");
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const std::string matched = walk(regex, v.tokenizer, seed).value_or("no end");
      EXPECT_TRUE(std::regex_match(matched, expression)) << v.name << ": " << matched;
      const std::optional<std::string> nested = walk(lark, v.tokenizer, seed, 300);
      if (!nested) continue;
      EXPECT_EQ(std::count(nested->begin(), nested->end(), '['), std::count(nested->begin(), nested->end(), ']'));
      EXPECT_TRUE(nested->ends_with(".")) << *nested;
    }
  }
}

TEST(Constraint, ForcedTokensTakenAtOnceChangeNoText) {
  for (const Vocabulary& v : vocabularies()) {
    const Constraint schema = Constraint::json_schema(v.tokenizer, kSchema, "schema");
    for (uint64_t seed = 0; seed < 6; ++seed)
      EXPECT_EQ(walk(schema, v.tokenizer, seed, 4000, true), walk(schema, v.tokenizer, seed)) << v.name;
    Constraint fixed = Constraint::json_schema(v.tokenizer, R"({"const": "anna"})", "schema");
    const std::vector<TokenId> forced = fixed.forced();
    EXPECT_EQ(v.tokenizer.decode(forced, false), "\"anna\"") << v.name;
    // One by one the mask has them alone.
    for (const TokenId id : forced) {
      EXPECT_EQ(allowed(fixed, v.tokenizer), std::vector<TokenId>{id}) << v.name;
      fixed.accept(id);
    }
    EXPECT_TRUE(fixed.finished());
    EXPECT_EQ(allowed(fixed, v.tokenizer), v.tokenizer.end_tokens()) << v.name;
  }
}

TEST(Constraint, AllThatIsTextIsAllowedWhereEverythingMatches) {
  const Tokenizer tokenizer = byte_level_bpe({"<|end|>", "<|other|>"});
  Constraint anything = Constraint::regex(tokenizer, "(?s:.*)", "regex");
  const std::string text = "Any text\n{\"at\": [all]} caf\u00e9\t";
  for (const TokenId id : tokenizer.encode(text, false)) {
    const std::vector<TokenId> ids = allowed(anything, tokenizer);
    EXPECT_TRUE(std::binary_search(ids.begin(), ids.end(), id)) << *tokenizer.token(id);
    // Not in the middle of a character.
    EXPECT_EQ(std::binary_search(ids.begin(), ids.end(), *tokenizer.id("<|end|>")), anything.complete());
    EXPECT_FALSE(std::binary_search(ids.begin(), ids.end(), *tokenizer.id("<|other|>"))) << "no text";
    anything.accept(id);
  }
  EXPECT_TRUE(anything.complete());
  EXPECT_FALSE(anything.finished());
}

TEST(Constraint, KnowsSeveralEndTokens) {
  const std::filesystem::path folder = std::filesystem::path(tests::source_folder()) / "unit/text/data/tiny_bpe";
  const Tokenizer tokenizer = Tokenizer::load(folder);
  ASSERT_GE(tokenizer.end_tokens().size(), 2u);
  Constraint digit = Constraint::regex(tokenizer, "[0-9]", "regex");
  digit.accept(tokenizer.encode("7", false));
  std::vector<TokenId> ends = tokenizer.end_tokens();
  std::sort(ends.begin(), ends.end());
  EXPECT_EQ(allowed(digit, tokenizer), ends);
  digit.accept(ends.back());
  EXPECT_TRUE(digit.finished());
}

TEST(Constraint, CopiesAndStepsBackAreIndependent) {
  const Tokenizer tokenizer = bytes({"<|end|>"});
  Constraint first = Constraint::regex(tokenizer, "ab*c|ad", "regex");
  first.accept('a');
  Constraint second = first;
  first.accept('b');
  EXPECT_EQ(allowed(first, tokenizer), (std::vector<TokenId>{'b', 'c'}));
  EXPECT_EQ(allowed(second, tokenizer), (std::vector<TokenId>{'b', 'c', 'd'}));
  first.rollback(1);
  EXPECT_EQ(allowed(first, tokenizer), (std::vector<TokenId>{'b', 'c', 'd'}));
  second.accept('d');
  EXPECT_TRUE(second.finished());
  EXPECT_FALSE(first.complete());
}

TEST(Constraint, FailsClosed) {
  const Tokenizer tokenizer = bytes({"<|end|>"});
  Constraint digits = Constraint::regex(tokenizer, "[0-9]+", "regex");
  EXPECT_THROW(digits.accept('x'), base::Error);
  std::vector<uint32_t> bits(words(tokenizer));
  EXPECT_THROW(digits.mask(bits), base::Error) << "after an error nothing is allowed";
  EXPECT_THROW(digits.accept('1'), base::Error);
  // A model's vocabulary may be larger than the tokenizer's.
  Constraint more = Constraint::regex(tokenizer, "(?s:.*)", "regex");
  std::vector<uint32_t> wide(words(tokenizer) + 3, ~0u);
  more.mask(wide);
  for (size_t id = static_cast<size_t>(tokenizer.vocabulary_size()); id < 32 * wide.size(); ++id)
    EXPECT_FALSE(wide[id / 32] >> (id % 32) & 1) << id;
}

TEST(Constraint, SaysWhereAVocabularyCannotSpellWhatMustFollow) {
  const Tokenizer tokenizer = trained(TokenizerRecipe::Kind::characters, {"<|end|>"});
  Constraint word = Constraint::regex(tokenizer, "a(Q|c)", "regex");
  word.accept(tokenizer.encode("a", false));
  EXPECT_EQ(allowed(word, tokenizer), tokenizer.encode("c", false));
  try {
    Constraint none = Constraint::regex(tokenizer, "(a|c)Q", "regex");
    none.accept(tokenizer.encode("a", false));
    (void)allowed(none, tokenizer);
    ADD_FAILURE() << "not refused";
  } catch (const base::Error& error) {
    EXPECT_NE(error.message().find("no token of the vocabulary"), std::string::npos) << error.message();
  }
}

TEST(Constraint, RefusesByThePlaceInTheSchema) {
  const Tokenizer tokenizer = bytes({"<|end|>"});
  const auto refusal = [&](const char* schema) -> std::string {
    try {
      (void)Constraint::json_schema(tokenizer, schema, "response_format");
    } catch (const base::Error& error) {
      EXPECT_EQ(error.kind(), base::ErrorKind::bad_input);
      EXPECT_EQ(error.where(), "response_format");
      return error.message();
    }
    return "not refused";
  };
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "object", "properties": {"a/b": {"type": "string", "minLength": 5, "maxLength": 2}}, "required": ["a/b"]})",
       "at /properties/a~1b: nothing fits it: minLength (5) is greater than maxLength (2)"},
      {R"({"properties": {"b": {"type": "array", "items": {"type": "string", "pattern": "^a$", "minLength": 5},
           "minItems": 1}}, "required": ["b"], "type": "object"})",
       "at /properties/b/items: nothing fits it"},
      {R"({"properties": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}]}},
           "$defs": {"x": {"properties": {"q": {"format": "shape"}}}}})",
       "at /$defs/x/properties/q: Unknown format: shape"},
      {R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", "at the top: nothing fits it: incompatible types"},
      {R"({"items": {"not": {}}})", "at /items: these keywords cannot be kept and are not supported: [\"not\"]"},
      {R"({"properties": {"s": {"minLenght": 2}}})", "at /properties/s: \"minLenght\" is not a keyword"},
      {R"({"items": {"type": "string", "nullable": true}})", "at /items: \"nullable\" is not JSON Schema"},
      {R"({"x-guidance": {"lenient": true}})", "at the top: \"x-guidance\" is not taken"},
      {R"({"type": "object", "required": ["z"], "additionalProperties": false})", "at the top: nothing fits it"},
      {R"({"$ref": "#/$defs/none"})", "at the top"},
      {R"({"$ref": "http://elsewhere/schema"})", "at the top"},
      {R"(false)", "nothing fits"},
      {R"({"type": "object")", "is not JSON"},
  };
  for (const auto& [schema, message] : cases)
    EXPECT_NE(refusal(schema).find(message), std::string::npos) << schema << ": " << refusal(schema);
  EXPECT_THROW((void)Constraint::regex(tokenizer, "a(?=b)", "regex"), base::Error);
  EXPECT_THROW((void)Constraint::regex(tokenizer, "(", "regex"), base::Error);
  EXPECT_THROW((void)Constraint::regex(tokenizer, R"([^\x00-\x{10FFFF}])", "regex"), base::Error);
  EXPECT_THROW((void)Constraint::lark(tokenizer, "start: nothing", "grammar"), base::Error);
}

TEST(Constraint, TellsOptionsOfOneOfApart) {
  const Tokenizer tokenizer = bytes({"<|end|>"});
  const Constraint shapes =
      Constraint::json_schema(tokenizer,
                              R"({"oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}], "$defs": {
          "a": {"type": "object", "properties": {"t": {"const": "a"}}, "required": ["t"], "additionalProperties": false},
          "b": {"type": "object", "properties": {"t": {"const": "b"}}, "required": ["t"], "additionalProperties": false}
      }})",
                              "schema");
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const Json json = Json::parse(walk(shapes, tokenizer, seed).value_or(""), nullptr, false);
    EXPECT_TRUE(json == Json({{"t", "a"}}) || json == Json({{"t", "b"}})) << json;
  }
}

}  // namespace
}  // namespace coterie::text
