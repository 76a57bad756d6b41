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

std::string one(const std::string& fields, const std::string& data = "12345678") {
  return safetensors_bytes("{\"t\":{" + fields + "}}", data);
}
std::string two(const std::string& a, const std::string& b, const std::string& data) {
  const auto entry = [](const std::string& name, const std::string& offsets, int64_t size) {
    return fmt::format(R"("{}":{{"dtype":"U8","shape":[{}],"data_offsets":[{}]}})", name, size, offsets);
  };
  return safetensors_bytes("{" + entry("first", a, 4) + "," + entry("second", b, 4) + "}", data);
}

std::vector<Bad> cases() {
  constexpr ErrorKind bad = ErrorKind::bad_input, unsupported = ErrorKind::unsupported;
  const std::string good = one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])");
  return {
      {"empty", bad, {"0 bytes are too few"}, ""},
      {"seven bytes", bad, {"7 bytes are too few"}, "1234567"},
      {"header longer than the file", bad, {"header ends at byte 1008", "file has 8"}, raw<uint64_t>(1000)},
      {"header beyond the limit", bad, {"100000001", "100000000"}, raw<uint64_t>(100'000'001) + "{}"},
      {"header of 2^64 - 1", bad, {"18446744073709551615"}, raw<uint64_t>(~uint64_t{0}) + "{}"},
      {"header of nothing", bad, {"does not begin with '{'"}, raw<uint64_t>(0)},
      {"leading space", bad, {"does not begin with '{'"}, safetensors_bytes(" {}", "")},
      {"no object", bad, {"does not begin with '{'"}, safetensors_bytes("[]", "")},
      {"cut JSON", bad, {"not valid JSON"}, safetensors_bytes("{\"t\":", "")},
      {"text after JSON", bad, {"not valid JSON"}, safetensors_bytes("{} x", "")},
      {"bad UTF-8", bad, {"not valid JSON"}, safetensors_bytes("{\"\xff\":1}", "")},
      {"tensor no object", bad, {"\"t\"", "expected an object", "3"}, safetensors_bytes("{\"t\":3}", "")},
      {"tensor null", bad, {"\"t\"", "null"}, safetensors_bytes("{\"t\":null}", "")},
      {"tensor a list", bad, {"\"t\"", "a list"}, safetensors_bytes("{\"t\":[]}", "")},
      {"tensor a string", bad, {"\"t\"", "\"x\""}, safetensors_bytes("{\"t\":\"x\"}", "")},
      {"metadata no object", bad, {"__metadata__"}, safetensors_bytes("{\"__metadata__\":[]}", "")},
      {"metadata no string",
       bad,
       {"__metadata__", "\"k\"", "expected a string", "1"},
       safetensors_bytes("{\"__metadata__\":{\"k\":1}}", "")},
      {"metadata nested", bad, {"__metadata__", "an object"}, safetensors_bytes("{\"__metadata__\":{\"k\":{}}}", "")},
      {"metadata twice",
       bad,
       {"__metadata__", "twice"},
       safetensors_bytes("{\"__metadata__\":{},\"__metadata__\":{}}", "")},
      {"metadata key twice",
       bad,
       {"__metadata__", "\"k\"", "twice"},
       safetensors_bytes("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", "")},
      {"name twice",
       bad,
       {"\"t\"", "twice"},
       safetensors_bytes(R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                         R"("t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                         "ab")},
      {"no dtype", bad, {": t", "no dtype"}, one(R"("shape":[2],"data_offsets":[0,8])")},
      {"no shape", bad, {": t", "no shape"}, one(R"("dtype":"F32","data_offsets":[0,8])")},
      {"no offsets", bad, {": t", "no data_offsets"}, one(R"("dtype":"F32","shape":[2])")},
      {"unknown key",
       bad,
       {": t", "unknown key \"stride\""},
       one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8],"stride":[1])")},
      {"dtype twice",
       bad,
       {": t", "dtype is given twice"},
       one(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])")},
      {"shape twice",
       bad,
       {": t", "shape is given twice"},
       one(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])")},
      {"dtype a number",
       bad,
       {": t", "dtype", "expected a string"},
       one(R"("dtype":3,"shape":[2],"data_offsets":[0,8])")},
      {"dtype a list",
       bad,
       {": t", "dtype", "expected a string"},
       one(R"("dtype":["F32"],"shape":[2],"data_offsets":[0,8])")},
      {"dtype unknown", unsupported, {": t", "F7", "BF16"}, one(R"("dtype":"F7","shape":[2],"data_offsets":[0,8])")},
      {"dtype not read", unsupported, {": t", "U16"}, one(R"("dtype":"U16","shape":[4],"data_offsets":[0,8])")},
      {"dtype with control characters",
       unsupported,
       {"\\x1b[2J"},
       one(R"("dtype":"\u001b[2J","shape":[2],"data_offsets":[0,8])")},
      {"shape a number",
       bad,
       {": t", "shape", "expected a list"},
       one(R"("dtype":"F32","shape":2,"data_offsets":[0,8])")},
      {"shape of strings", bad, {": t", "shape"}, one(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])")},
      {"shape nested", bad, {": t", "shape"}, one(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])")},
      {"shape a fraction", bad, {": t", "shape", "2.0"}, one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])")},
      {"dim negative", bad, {": t", "[-2]", "negative"}, one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")},
      {"dims overflow",
       bad,
       {": t", "2^63"},
       one(R"("dtype":"F32","shape":[4294967296,4294967296,2],"data_offsets":[0,8])")},
      {"bytes overflow",
       bad,
       {": t", "2^63"},
       one(R"("dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,8])")},
      {"dims overflow behind a zero",
       bad,
       {": t", "2^63"},
       one(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])")},
      {"dim beyond 2^63",
       bad,
       {": t", "9223372036854775808"},
       one(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])")},
      {"one offset", bad, {": t", "expected two", "found 1"}, one(R"("dtype":"F32","shape":[2],"data_offsets":[0])")},
      {"three offsets",
       bad,
       {": t", "expected two", "found 3"},
       one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])")},
      {"offsets negative", bad, {": t", "[-8, 0]"}, one(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])")},
      {"offsets reversed",
       bad,
       {": t", "[8, 0]", "reversed"},
       one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")},
      {"offsets past the end",
       bad,
       {": t", "byte 12", "holds 8", "cut off"},
       one(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])")},
      {"offsets and shape differ",
       bad,
       {": t", "f32 [3] takes 12 bytes", "[0, 8] span 8"},
       one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")},
      {"overlap", bad, {": second", "byte 2", "inside \"first\"", "ends at 4"}, two("0,4", "2,6", "123456")},
      {"same bytes twice", bad, {"inside"}, two("0,4", "0,4", "1234")},
      {"hole", bad, {": second", "byte 6", "end at 4", "hole"}, two("0,4", "6,10", "1234567890")},
      {"hole at the start", bad, {": first", "byte 1", "end at 0", "hole"}, two("1,5", "5,9", "123456789")},
      {"surplus bytes", bad, {"3 bytes after the last tensor"}, good + "xyz"},
      {"cut off by a byte", bad, {"cut off"}, good.substr(0, good.size() - 1)},
  };
}

class BadSafetensors : public testing::TestWithParam<Bad> {};

TEST_P(BadSafetensors, IsRefusedWithTheReason) {
  const Bad& bad = GetParam();
  try {
    checkpoint::parse_safetensors(as_bytes(bad.file), "model.safetensors");
    FAIL() << "was read";
  } catch (const base::Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(bad.kind)) << error.what();
    EXPECT_TRUE(error.where().starts_with("model.safetensors")) << error.what();
    for (const std::string& word : bad.words)
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos)
          << "no \"" << word << "\" in: " << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(, BadSafetensors, testing::ValuesIn(cases()));

TEST(SafetensorsTruncated, EveryTruncationIsRefused) {
  const std::string good = safetensors_bytes(R"({"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "12345678");
  EXPECT_NO_THROW(checkpoint::parse_safetensors(as_bytes(good), "x"));
  for (size_t size = 0; size < good.size(); ++size)
    EXPECT_THROW(checkpoint::parse_safetensors(as_bytes(good).first(size), "x"), base::Error) << size;
}

}  // namespace
}  // namespace coterie
