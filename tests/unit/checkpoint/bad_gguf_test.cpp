#include <gtest/gtest.h>

#include <vector>

#include "support/expect_error.h"
#include "unit/checkpoint/bytes.h"

namespace coterie {
namespace {

using base::ErrorKind;

struct Bad {
  const char* what;
  ErrorKind kind;
  std::vector<std::string> words;
  std::string file;
};
void PrintTo(const Bad& bad, std::ostream* stream) { *stream << bad.what; }

GgufBytes good() {
  GgufBytes file;
  file.string("general.architecture", "llama");
  file.tensor("a", {32, 2}, 8, std::string(68, 'a'));
  file.tensor("b", {4}, 0, std::string(16, 'b'));
  return file;
}

template <typename Change>
std::string with(Change&& change) {
  GgufBytes file = good();
  change(file);
  return file.str();
}

std::string list(uint32_t type, uint64_t count, const std::string& values = "") {
  return raw(type) + raw(count) + values;
}

std::vector<Bad> cases() {
  constexpr ErrorKind bad = ErrorKind::bad_input, unsupported = ErrorKind::unsupported;
  std::vector<Bad> all = {
      {"empty", bad, {"magic", "cut off"}, ""},
      {"three bytes", bad, {"magic"}, "GGU"},
      {"other magic", bad, {"does not begin with \"GGUF\""}, with([](auto& f) { f.magic = "GGML"; })},
      {"version 0", unsupported, {"version 0"}, with([](auto& f) { f.version = 0; })},
      {"version 1", unsupported, {"version 1", "convert"}, with([](auto& f) { f.version = 1; })},
      {"version 4", unsupported, {"version 4", "2 and 3"}, with([](auto& f) { f.version = 4; })},
      {"big-endian", unsupported, {"big-endian"}, with([](auto& f) { f.version = 0x03000000; })},
      {"too many tensors", bad, {"number of tensors", "4611686018427387904"}, with([](auto& f) {
         f.tensor_count = int64_t{1} << 62;
       })},
      {"tensors counted negative",
       bad,
       {"number of tensors", "18446744073709551615"},
       with([](auto& f) { f.tensor_count = -2, f.magic = "GGUF"; }).replace(8, 8, raw<int64_t>(-1))},
      {"too many keys", bad, {"number of key-values"}, with([](auto& f) { f.pair_count = int64_t{1} << 40; })},
      {"one tensor too many", bad, {"tensor 3 of 3"}, with([](auto& f) { f.tensor_count = 3; })},
      {"one key too many", bad, {"pass the end"}, with([](auto& f) { f.pair_count = 2; })},
      {"empty key", bad, {"key 2 of 2 is empty"}, with([](auto& f) { f.u32("", 1); })},
      {"key twice", bad, {"general.architecture", "twice"}, with([](auto& f) {
         f.string("general.architecture", "x");
       })},
      {"key longer than the file", bad, {"key 2 of 2", "pass the end"}, with([](auto& f) {
         f.pairs.push_back(raw<uint64_t>(uint64_t{1} << 40) + "k");
       })},
      {"key of 2^64 - 1 bytes", bad, {"18446744073709551615"}, with([](auto& f) {
         f.pairs.push_back(raw(~uint64_t{0}) + "k");
       })},
      {"unknown value type", bad, {"\"k\"", "value type 13"}, with([](auto& f) { f.pair("k", 13, "x"); })},
      {"string longer than the file", bad, {"\"k\"", "pass the end"}, with([](auto& f) {
         f.pair("k", 8, raw<uint64_t>(1'000'000));
       })},
      {"list longer than the file", bad, {"\"k\"", "1000000000000"}, with([](auto& f) {
         f.pair("k", 9, list(0, 1'000'000'000'000));
       })},
      {"list of strings longer than the file", bad, {"\"k\"", "8 bytes each"}, with([](auto& f) {
         f.pair("k", 9, list(8, 1000));
       })},
      {"list of 2^61 doubles", bad, {"\"k\""}, with([](auto& f) { f.pair("k", 9, list(12, uint64_t{1} << 61)); })},
      {"list of an unknown type", bad, {"\"k\"", "value type 77"}, with([](auto& f) { f.pair("k", 9, list(77, 1)); })},
      {"lists of lists", unsupported, {"\"k\"", "lists of lists"}, with([](auto& f) { f.pair("k", 9, list(9, 1)); })},
      {"alignment 0", bad, {"general.alignment", "found 0"}, with([](auto& f) { f.u32("general.alignment", 0); })},
      {"alignment 24", bad, {"general.alignment", "power of two"}, with([](auto& f) {
         f.u32("general.alignment", 24);
       })},
      {"alignment 4", bad, {"general.alignment", "found 4"}, with([](auto& f) { f.u32("general.alignment", 4); })},
      {"alignment a string", bad, {"general.alignment", "u32"}, with([](auto& f) {
         f.string("general.alignment", "32");
       })},
      {"alignment beyond the file", bad, {"data begin at byte", "cut off"}, with([](auto& f) {
         f.u32("general.alignment", 1u << 20), f.tensors.pop_back();
       })},
      {"no name", bad, {"tensor 1 of 2 has no name"}, with([](auto& f) { f.tensors[0].name = ""; })},
      {"name twice", bad, {"\"a\"", "twice"}, with([](auto& f) { f.tensors[1].name = "a"; })},
      {"no dimension", bad, {": a", "1 to 4 dimensions", "found 0"}, with([](auto& f) { f.tensors[0].dim_count = 0; })},
      {"five dimensions", bad, {": a", "found 5"}, with([](auto& f) {
         f.tensors[0].dims = {1, 1, 1, 1, 1};
       })},
      {"2^32 - 1 dimensions", bad, {": a", "found 4294967295"}, with([](auto& f) {
         f.tensors[0].dim_count = 0xffffffff;
       })},
      {"dimension negative", bad, {": b", "[-4]", "negative"}, with([](auto& f) { f.tensors[1].dims = {-4}; })},
      {"dimensions overflow", bad, {": b", "2^63"}, with([](auto& f) {
         f.tensors[1].dims = {int64_t{1} << 32, int64_t{1} << 32};
       })},
      {"bytes overflow", bad, {": b", "2^63"}, with([](auto& f) { f.tensors[1].dims = {int64_t{1} << 61}; })},
      {"row no whole block", bad, {": a", "33 values", "q8_0", "32"}, with([](auto& f) {
         f.tensors[0].dims = {33, 2};
       })},
      {"offset not aligned", bad, {": b", "offset 100", "alignment 32"}, with([](auto& f) {
         f.tensors[1].offset = 100;
       })},
      {"offset past the end", bad, {": b", "offset 1048576", "pass the end"}, with([](auto& f) {
         f.tensors[1].offset = 1 << 20;
       })},
      {"offset of 2^64 - 32", bad, {": b", "18446744073709551584"}, with([](auto& f) {
         f.tensors[1].offset = ~uint64_t{31};
       })},
      {"overlap", bad, {": b", "offset 64", "inside \"a\"", "ends at 68"}, with([](auto& f) {
         f.tensors[1].offset = 64;
       })},
      {"same place", bad, {"inside"}, with([](auto& f) { f.tensors[1].offset = 0; })},
      {"size past the end", bad, {": b", "pass the end", "cut off"}, with([](auto& f) { f.tensors[1].dims = {5}; })},
      {"no data at all", bad, {"cut off"}, with([](auto& f) { f.data.clear(); })},
  };
  const std::pair<uint32_t, const char*> refused[] = {{4, "q4_2 (withdrawn)"},
                                                      {9, "q8_1"},
                                                      {15, "q8_k"},
                                                      {31, "q4_0_4_4"},
                                                      {40, "nvfp4"},
                                                      {41, "q1_0"},
                                                      {42, "q2_0"},
                                                      {43, "unknown ggml type 43"},
                                                      {0xffffffff, "unknown ggml type 4294967295"}};
  for (const auto& [id, name] : refused)
    all.push_back({name, unsupported, {": b", name, "q4_k"}, with([id = id](auto& f) { f.tensors[1].type = id; })});
  return all;
}

class BadGguf : public testing::TestWithParam<Bad> {};

TEST_P(BadGguf, IsRefusedWithTheReason) {
  const Bad& bad = GetParam();
  try {
    checkpoint::parse_gguf(as_bytes(bad.file), "model.gguf");
    FAIL() << "was read";
  } catch (const base::Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(bad.kind)) << error.what();
    EXPECT_TRUE(error.where().starts_with("model.gguf")) << error.what();
    for (const std::string& word : bad.words)
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "no \"" << word << "\" in: " << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(, BadGguf, testing::ValuesIn(cases()));

TEST(GgufTruncated, TheBaseOfTheCasesIsGood) { EXPECT_EQ(parse(good()).tensors.size(), 2u); }

TEST(GgufTruncated, EveryTruncationIsRefused) {
  const std::string file = good().str();
  for (size_t size = 0; size < file.size(); ++size)
    EXPECT_THROW(checkpoint::parse_gguf(as_bytes(file).first(size), "x"), base::Error) << size;
}

}  // namespace
}  // namespace coterie
