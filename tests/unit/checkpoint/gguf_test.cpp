#include <gtest/gtest.h>

#include <limits>

#include "checkpoint/split_name.h"
#include "checkpoint/tensor_source.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/checkpoint/bytes.h"

namespace coterie {
namespace {

using base::ErrorKind;
using checkpoint::Metadata;
using tensor::DType;

TEST(Gguf, ReadsTensorsInPyTorchsOrder) {
  GgufBytes file;
  file.tensor("w", {4, 3, 2}, 0, std::string(96, 'w'));
  file.tensor("row", {256}, 12, std::string(144, 'q'));
  const auto parsed = parse(file);
  ASSERT_EQ(parsed.tensors.size(), 2u);
  EXPECT_EQ(parsed.tensors[0].shape, (tensor::Shape{2, 3, 4}));
  EXPECT_EQ(parsed.tensors[0].dtype, DType::f32);
  EXPECT_EQ(parsed.tensors[0].bytes.size(), 96u);
  EXPECT_EQ(static_cast<char>(parsed.tensors[0].bytes.back()), 'w');
  EXPECT_EQ(parsed.tensors[1].dtype, DType::q4_k);
  EXPECT_EQ(static_cast<char>(parsed.tensors[1].bytes.front()), 'q');
}

TEST(Gguf, ReadsEveryKindOfValue) {
  GgufBytes file;
  file.pair("u8", 0, raw<uint8_t>(200));
  file.pair("i8", 1, raw<int8_t>(-5));
  file.pair("u16", 2, raw<uint16_t>(60000));
  file.pair("i16", 3, raw<int16_t>(-300));
  file.pair("u32", 4, raw<uint32_t>(4'000'000'000));
  file.pair("i32", 5, raw<int32_t>(-70000));
  file.pair("f32", 6, raw<float>(0.1f));
  file.pair("bool", 7, raw<uint8_t>(1));
  file.pair("string", 8, GgufBytes::text("text"));
  file.pair("u64", 10, raw<uint64_t>(~uint64_t{0}));
  file.pair("i64", 11, raw<int64_t>(std::numeric_limits<int64_t>::min()));
  file.pair("f64", 12, raw<double>(0.1));
  const auto list = [](uint32_t type, uint64_t count, const std::string& values) {
    return raw(type) + raw(count) + values;
  };
  file.pair("u8s", 9, list(0, 2, "\x01\xff"));
  file.pair("i32s", 9, list(5, 2, raw<int32_t>(-1) + raw<int32_t>(7)));
  file.pair("f32s", 9, list(6, 1, raw<float>(2.5f)));
  file.pair("bools", 9, list(7, 3, std::string("\x01\x00\x02", 3)));
  file.pair("strings", 9, list(8, 2, GgufBytes::text("a") + GgufBytes::text("")));
  file.pair("none", 9, list(4, 0, ""));
  const Metadata found = parse(file).metadata;
  EXPECT_EQ(found, (Metadata{{"u8", uint64_t{200}},
                             {"i8", int64_t{-5}},
                             {"u16", uint64_t{60000}},
                             {"i16", int64_t{-300}},
                             {"u32", uint64_t{4'000'000'000}},
                             {"i32", int64_t{-70000}},
                             {"f32", double{0.1f}},
                             {"bool", true},
                             {"string", std::string("text")},
                             {"u64", ~uint64_t{0}},
                             {"i64", std::numeric_limits<int64_t>::min()},
                             {"f64", 0.1},
                             {"u8s", std::vector<uint64_t>{1, 255}},
                             {"i32s", std::vector<int64_t>{-1, 7}},
                             {"f32s", std::vector<double>{2.5}},
                             {"bools", std::vector<bool>{true, false, true}},
                             {"strings", std::vector<std::string>{"a", ""}},
                             {"none", std::vector<uint64_t>{}}}));
}

TEST(Gguf, Version2AndOtherAlignmentsAndHoles) {
  GgufBytes file;
  file.version = 2;
  file.alignment = 64;
  file.u32("general.alignment", 64);
  file.tensor("a", {3}, 0, "aaaabbbbcccc");
  file.data.resize(640);  // unused bytes between tensors harm nobody
  file.tensor("b", {1}, 0, "dddd");
  const auto parsed = parse(file);
  EXPECT_EQ(static_cast<char>(parsed.tensors.at(1).bytes[0]), 'd');
  EXPECT_EQ(parsed.tensors[1].bytes.data() - parsed.tensors[0].bytes.data(), 640);
}

TEST(Gguf, OrderOfTheListNeedNotBeTheOrderOfTheData) {
  GgufBytes file;
  file.tensor("a", {1}, 0, "aaaa");
  file.tensor("b", {1}, 0, "bbbb");
  std::swap(file.tensors[0], file.tensors[1]);
  const auto parsed = parse(file);
  EXPECT_EQ(parsed.tensors.at(0).name, "a");
  EXPECT_EQ(static_cast<char>(parsed.tensors[0].bytes[0]), 'a');
}

TEST(Gguf, AFileOfMetadataAlone) {
  GgufBytes file;
  file.string("general.architecture", "llama");
  const auto parsed = parse(file);
  EXPECT_TRUE(parsed.tensors.empty());
  EXPECT_EQ(std::get<std::string>(parsed.metadata.at("general.architecture")), "llama");
}

TEST(SplitName, IsParsedStrictly) {
  const auto split = checkpoint::SplitName::parse("dir/big-model-00002-of-00005.gguf");
  ASSERT_TRUE(split);
  EXPECT_EQ(split->number, 2);
  EXPECT_EQ(split->count, 5);
  EXPECT_EQ(split->part(5), "dir/big-model-00005-of-00005.gguf");
  for (const char* name :
       {"model.gguf", "-00001-of-00002.gguf", "m-0001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf",
        "m-00001-of-0000x.gguf", "m-00001_of-00002.gguf", "m-00001-of-00002.bin", "m-+0001-of-00002.gguf"})
    EXPECT_FALSE(checkpoint::SplitName::parse(name)) << name;
}

struct Parts {
  TempFolder folder;
  GgufBytes one, two;
  Parts() {
    one.string("general.architecture", "llama");
    one.u16("split.no", 0), one.u16("split.count", 2);
    one.pair("split.tensors.count", 5, raw<int32_t>(2));
    one.tensor("a", {1}, 0, "aaaa");
    two.u16("split.no", 1), two.u16("split.count", 2);
    two.tensor("b", {1}, 0, "bbbb");
  }
  std::unique_ptr<checkpoint::TensorSource> open(std::string_view name = "m-00001-of-00002.gguf") const {
    folder.write("m-00001-of-00002.gguf", one.str());
    folder.write("m-00002-of-00002.gguf", two.str());
    return checkpoint::open_gguf(folder / name);
  }
};

TEST(SplitGguf, JoinsItsParts) {
  const Parts parts;
  const auto source = parts.open();
  EXPECT_EQ(source->format(), checkpoint::Format::gguf);
  ASSERT_EQ(source->tensors().size(), 2u);
  EXPECT_EQ(static_cast<char>(source->find("b")->bytes[0]), 'b');
  EXPECT_EQ(std::get<std::string>(source->metadata().at("general.architecture")), "llama");
  EXPECT_TRUE(source->file_of(*source->find("b")).ends_with("m-00002-of-00002.gguf"));
  EXPECT_EQ(source->file_bytes(), static_cast<int64_t>(parts.one.str().size() + parts.two.str().size()));
}

TEST(SplitGguf, RefusesPartsThatDoNotFit) {
  const auto refuse = [](ErrorKind kind, std::initializer_list<std::string_view> words, auto&& change) {
    Parts parts;
    change(parts);
    expect_error(kind, words, [&] { parts.open(); });
  };
  constexpr ErrorKind bad = ErrorKind::bad_input;
  refuse(bad, {"00002-of-00002", "split.no", "expected 1", "found 0"},
         [](Parts& p) { p.two.pairs[0] = p.one.pairs[1]; });
  refuse(bad, {"00001-of-00002", "split.count", "expected 2", "found 3"}, [](Parts& p) {
    p.one.pairs.erase(p.one.pairs.begin() + 2);
    p.one.u16("split.count", 3);
  });
  refuse(bad, {"00002-of-00002", "split.count", "missing"}, [](Parts& p) { p.two.pairs.pop_back(); });
  refuse(bad, {"split.tensors.count", "promises 2", "hold 3"}, [](Parts& p) { p.two.tensor("c", {1}, 0, "cccc"); });
  refuse(bad, {"00002-of-00002", "\"a\"", "already in"}, [](Parts& p) { p.two.tensors[0].name = "a"; });
  refuse(bad, {"00002-of-00002", "general.architecture", "differs"},
         [](Parts& p) { p.two.string("general.architecture", "qwen3"); });
  refuse(bad, {"split.no", "expected an integer"}, [](Parts& p) {
    p.two.pairs.erase(p.two.pairs.begin());
    p.two.string("split.no", "1");
  });
}

TEST(SplitGguf, WantsTheFirstPartAndAllOfThem) {
  const Parts parts;
  expect_error(ErrorKind::bad_input, {"part 2", "2 files", "m-00001-of-00002.gguf"},
               [&] { parts.open("m-00002-of-00002.gguf"); });
  std::filesystem::remove(parts.folder / "m-00002-of-00002.gguf");
  expect_error(ErrorKind::not_found, {"1 of 2 parts are missing", "m-00002-of-00002.gguf"},
               [&] { checkpoint::open_gguf(parts.folder / "m-00001-of-00002.gguf"); });
  std::filesystem::rename(parts.folder / "m-00001-of-00002.gguf", parts.folder / "renamed.gguf");
  expect_error(ErrorKind::bad_input, {"renamed.gguf", "one of 2 parts", "NAME-00001-of-00002.gguf"},
               [&] { checkpoint::open_gguf(parts.folder / "renamed.gguf"); });
}

TEST(SplitGguf, OnePartOfOneIsAnOrdinaryFile) {
  const TempFolder folder;
  GgufBytes file;
  file.tensor("a", {1}, 0, "aaaa");
  EXPECT_EQ(checkpoint::open_gguf(folder.write("m-00001-of-00001.gguf", file.str()))->tensors().size(), 1u);
}

}  // namespace
}  // namespace coterie
