#include <gtest/gtest.h>

#include <cstring>

#include "base/atomic_file.h"
#include "checkpoint/tensor_source.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"
#include "unit/checkpoint/bytes.h"

namespace coterie {
namespace {

using base::ErrorKind;
using checkpoint::TensorInfo;
using tensor::DType;

std::string text_of(const TensorInfo& tensor) {
  return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
}

TEST(Safetensors, ReadsNamesTypesShapesAndBytes) {
  const TempFolder folder;
  const auto path = folder.write(
      "a.safetensors", safetensors_bytes(R"({"__metadata__":{"format":"pt"},)"
                                         R"("b":{"dtype":"BF16","shape":[1,2,2],"data_offsets":[8,16]},)"
                                         R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                         R"("scalar":{"dtype":"U8","shape":[],"data_offsets":[16,17]},)"
                                         R"("empty":{"dtype":"F64","shape":[0,3],"data_offsets":[17,17]}}   )",
                                         "aaaaAAAAbbBBccCC!"));
  const auto source = checkpoint::open_safetensors(path);
  EXPECT_EQ(source->format(), checkpoint::Format::safetensors);
  EXPECT_EQ(source->where(), path.string());
  EXPECT_EQ(source->file_bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
  EXPECT_EQ(std::get<std::string>(source->metadata().at("format")), "pt");
  ASSERT_EQ(source->tensors().size(), 4u);
  EXPECT_EQ(source->tensors()[0].name, "a") << "in the order of the file";
  const TensorInfo* b = source->find("b");
  ASSERT_NE(b, nullptr);
  EXPECT_EQ(b->dtype, DType::bf16);
  EXPECT_EQ(b->shape, (tensor::Shape{1, 2, 2}));
  EXPECT_EQ(text_of(*b), "bbBBccCC");
  EXPECT_EQ(text_of(*source->find("scalar")), "!");
  EXPECT_TRUE(source->find("scalar")->shape.empty());
  EXPECT_EQ(source->find("empty")->bytes.size(), 0u);
  EXPECT_EQ(source->find("B"), nullptr);
  EXPECT_EQ(source->file_of(*b), path.string());
  const auto place = source->place_of(b->bytes.subspan(2, 4));
  ASSERT_TRUE(place);
  EXPECT_EQ(place->file, path);
  EXPECT_EQ(base::read_text(path).substr(static_cast<size_t>(place->offset), 4), "BBcc") << "a part of a tensor";
  const std::vector<std::byte> elsewhere(4);
  EXPECT_FALSE(source->place_of(elsewhere));
}

TEST(Safetensors, KnowsTwelveTypes) {
  const std::pair<const char*, DType> types[] = {
      {"F32", DType::f32}, {"F16", DType::f16},      {"BF16", DType::bf16},       {"F64", DType::f64},
      {"I8", DType::i8},   {"I16", DType::i16},      {"I32", DType::i32},         {"I64", DType::i64},
      {"U8", DType::u8},   {"BOOL", DType::boolean}, {"F8_E4M3", DType::f8_e4m3}, {"F8_E5M2", DType::f8_e5m2}};
  for (const auto& [name, dtype] : types) {
    const int64_t size = 2 * tensor::info(dtype).block_bytes;
    const std::string file =
        safetensors_bytes(fmt::format(R"({{"t":{{"dtype":"{}","shape":[2],"data_offsets":[0,{}]}}}})", name, size),
                          std::string(static_cast<size_t>(size), 'x'));
    const auto parsed = checkpoint::parse_safetensors(as_bytes(file), "x");
    EXPECT_EQ(parsed.tensors.at(0).dtype, dtype);
  }
}

TEST(Safetensors, AnEmptyListOfTensorsIsAFileToo) {
  EXPECT_TRUE(checkpoint::parse_safetensors(as_bytes(safetensors_bytes("{}", "")), "x").tensors.empty());
}

struct Shards {
  TempFolder folder;
  std::string one = safetensors_bytes(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "aa");
  std::string two = safetensors_bytes(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "bbb");
  std::string index = R"({"metadata":{"total_size":5},"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})";

  void write() const {
    folder.write("one.safetensors", one);
    folder.write("two.safetensors", two);
    folder.write("model.safetensors.index.json", index);
  }
  std::unique_ptr<checkpoint::TensorSource> open() const {
    write();
    return checkpoint::open_safetensors(folder.path());
  }
};

TEST(ShardedSafetensors, JoinsTheShards) {
  const Shards shards;
  const auto source = shards.open();
  ASSERT_EQ(source->tensors().size(), 2u);
  EXPECT_EQ(text_of(*source->find("a")), "aa");
  EXPECT_EQ(text_of(*source->find("b")), "bbb");
  EXPECT_EQ(source->file_of(*source->find("b")), (shards.folder / "two.safetensors").string());
  EXPECT_EQ(source->where(), shards.folder.path().string());
  EXPECT_EQ(source->file_bytes(), static_cast<int64_t>(shards.one.size() + shards.two.size()));
  const auto named = checkpoint::open_safetensors(shards.folder / "model.safetensors.index.json");
  EXPECT_EQ(named->tensors().size(), 2u);
}

TEST(ShardedSafetensors, RefusesWhatDoesNotFitTogether) {
  const auto refuse = [](ErrorKind kind, std::initializer_list<std::string_view> words, auto&& change) {
    Shards shards;
    change(shards);
    expect_error(kind, words, [&] { shards.open(); });
  };
  refuse(ErrorKind::bad_input, {"one.safetensors", "\"c\"", "missing", "index.json"}, [](Shards& s) {
    s.index = R"({"weight_map":{"a":"one.safetensors","c":"one.safetensors","b":"two.safetensors"}})";
  });
  refuse(ErrorKind::bad_input, {"two.safetensors", "\"b\"", "not in", "index.json"}, [](Shards& s) {
    s.two = safetensors_bytes(R"({"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                              R"("c":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                              "bbbc");
    s.index = R"({"weight_map":{"a":"one.safetensors","c":"two.safetensors"}})";
  });
  refuse(ErrorKind::bad_input, {"two.safetensors", "\"a\"", "already in", "one.safetensors"},
         [](Shards& s) { s.two = s.one; });
  refuse(ErrorKind::bad_input, {"two.safetensors", "\"a\"", "missing"},
         [](Shards& s) { s.index = R"({"weight_map":{"a":"two.safetensors","b":"two.safetensors"}})"; });
  refuse(ErrorKind::bad_input, {"two.safetensors", "cut off"}, [](Shards& s) { s.two.pop_back(); });
  refuse(ErrorKind::not_found, {"index.json", "three.safetensors", "lacks"}, [](Shards& s) {
    s.index = R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"three.safetensors"}})";
  });
  refuse(ErrorKind::not_found, {"index.json", "lacks"},
         [](Shards& s) { s.index = R"({"weight_map":{"a":"one.safetensors","b":")" + std::string(300, 'x') + "\"}}"; });
  refuse(ErrorKind::bad_input, {"index.json", "weight_map", "missing"}, [](Shards& s) { s.index = "{}"; });
  refuse(ErrorKind::bad_input, {"index.json", "weight_map", "empty"},
         [](Shards& s) { s.index = R"({"weight_map":{}})"; });
  refuse(ErrorKind::bad_input, {"index.json", "not valid JSON"}, [](Shards& s) { s.index = "{"; });
  refuse(ErrorKind::bad_input, {"index.json", "expected a JSON object"}, [](Shards& s) { s.index = "[]"; });
  refuse(ErrorKind::bad_input, {"index.json", "\"a\"", "expected a file name"},
         [](Shards& s) { s.index = R"({"weight_map":{"a":1}})"; });
  refuse(ErrorKind::bad_input, {"index.json", "\"a\"", "twice"}, [](Shards& s) {
    s.index = R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors","a":"two.safetensors"}})";
  });
  for (const std::string path : {"../one.safetensors", "/etc/passwd", "..", ".", "", "x/one.safetensors", "a\\u0000b"})
    refuse(ErrorKind::bad_input, {"not a plain file name"},
           [&](Shards& s) { s.index = R"({"weight_map":{"a":")" + path + R"(","b":"two.safetensors"}})"; });
}

TEST(Safetensors, AFolderWithoutWeightsSaysWhatWasLookedFor) {
  const TempFolder folder;
  expect_error(ErrorKind::not_found, {"model.safetensors", "model.safetensors.index.json"},
               [&] { checkpoint::open_safetensors(folder.path()); });
  expect_error(ErrorKind::not_found, {"x.safetensors"},
               [&] { checkpoint::open_safetensors(folder / "x.safetensors"); });
}

}  // namespace
}  // namespace coterie
