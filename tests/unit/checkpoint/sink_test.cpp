#include "checkpoint/tensor_sink.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "base/atomic_file.h"
#include "checkpoint/random_source.h"
#include "checkpoint/tensor_source.h"
#include "quant/codec.h"
#include "support/expect_error.h"
#include "support/temp_folder.h"

namespace coterie {
namespace {

using base::ErrorKind;
using checkpoint::Metadata;
using checkpoint::TensorToWrite;
using tensor::DType;

/// The tensors of a source, handed over in pieces of `piece` bytes.
std::vector<TensorToWrite> copies(const checkpoint::TensorSource& source, size_t piece = 1000) {
  std::vector<TensorToWrite> list;
  for (const checkpoint::TensorInfo& tensor : source.tensors())
    list.push_back({tensor.name, tensor.dtype, tensor.shape, [bytes = tensor.bytes, piece](const auto& write) {
                      for (size_t at = 0; at < bytes.size(); at += piece)
                        write(bytes.subspan(at, std::min(piece, bytes.size() - at)));
                    }});
  return list;
}

void expect_same(const checkpoint::TensorSource& expected, const checkpoint::TensorSource& found) {
  ASSERT_EQ(found.tensors().size(), expected.tensors().size());
  for (const checkpoint::TensorInfo& tensor : expected.tensors()) {
    const checkpoint::TensorInfo* copy = found.find(tensor.name);
    ASSERT_NE(copy, nullptr) << tensor.name;
    EXPECT_EQ(copy->dtype, tensor.dtype) << tensor.name;
    EXPECT_EQ(copy->shape, tensor.shape) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(copy->bytes, tensor.bytes)) << tensor.name;
  }
}

std::unique_ptr<checkpoint::TensorSource> plain_source() {
  std::vector<checkpoint::MemoryTensor> list;
  for (const DType dtype :
       {DType::u8, DType::bf16, DType::f64, DType::boolean, DType::f32, DType::i64, DType::f8_e4m3}) {
    const size_t size = static_cast<size_t>(5 * 3 * tensor::info(dtype).block_bytes);
    std::vector<std::byte> bytes(size);
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + size);
    list.push_back({"tensor." + std::string(tensor::name(dtype)), dtype, {5, 3}, bytes});
  }
  list.push_back({"scalar \"quoted\" \xc3\xa9", DType::i32, {}, std::vector<std::byte>(4)});
  list.push_back({"empty", DType::f32, {0}, {}});
  return checkpoint::memory_source(std::move(list));
}

TEST(WriteSafetensors, WhatIsWrittenIsReadAndWrittenAgainTheSame) {
  const TempFolder folder;
  const auto source = plain_source();
  checkpoint::write_safetensors(folder / "a", copies(*source), {{"format", "pt"}, {"note", "line\nbreak"}});
  const auto read = checkpoint::open_safetensors(folder / "a");
  expect_same(*source, *read);
  EXPECT_EQ(std::get<std::string>(read->metadata().at("note")), "line\nbreak");
  for (const checkpoint::TensorInfo& tensor : read->tensors())
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) %
                  static_cast<uintptr_t>(tensor::info(tensor.dtype).block_bytes),
              0u)
        << tensor.name << " is not aligned to its element";
  checkpoint::write_safetensors(folder / "b", copies(*read, 7), {{"format", "pt"}, {"note", "line\nbreak"}});
  EXPECT_EQ(base::read_text(folder / "a"), base::read_text(folder / "b"));
}

TEST(WriteSafetensors, KnownBytes) {
  const TempFolder folder;
  std::vector<checkpoint::MemoryTensor> list;
  list.push_back({"t", DType::u8, {2}, {std::byte{'h'}, std::byte{'i'}}});
  checkpoint::write_safetensors(folder / "a", copies(*checkpoint::memory_source(std::move(list))));
  const std::string header = R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})";
  EXPECT_EQ(base::read_text(folder / "a"), std::string("\x38\0\0\0\0\0\0\0", 8) + header + "   hi");
  checkpoint::write_safetensors(folder / "none", {});
  EXPECT_TRUE(checkpoint::open_safetensors(folder / "none")->tensors().empty());
}

TEST(WriteSafetensors, RefusesWhatTheFormatCannotHold) {
  const TempFolder folder;
  const auto refuse = [&](ErrorKind kind, std::initializer_list<std::string_view> words,
                          std::vector<TensorToWrite> list, const std::map<std::string, std::string>& metadata = {}) {
    expect_error(kind, words, [&] { checkpoint::write_safetensors(folder / "a", list, metadata); });
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  };
  const auto nothing = [](const auto&) {};
  refuse(ErrorKind::unsupported, {"w", "q4_k", "GGUF"}, {{"w", DType::q4_k, {256}, nothing}});
  refuse(ErrorKind::bad_input, {"w", "taken"}, {{"w", DType::u8, {0}, nothing}, {"w", DType::u8, {0}, nothing}});
  refuse(ErrorKind::bad_input, {"__metadata__"}, {{"__metadata__", DType::u8, {0}, nothing}});
  refuse(ErrorKind::bad_input, {"UTF-8"}, {{"\xff", DType::u8, {0}, nothing}});
  refuse(ErrorKind::bad_input, {"UTF-8"}, {}, {{"k", "\xff"}});
  refuse(ErrorKind::bad_input, {"negative"}, {{"w", DType::u8, {-1}, nothing}});
  refuse(ErrorKind::internal, {"w", "0 bytes were produced", "takes 4"}, {{"w", DType::f32, {1}, nothing}});
  refuse(ErrorKind::internal, {"w", "more than the 4 bytes"},
         {{"w", DType::f32, {1}, [](const auto& write) { write(std::vector<std::byte>(5)); }}});
}

Metadata all_kinds() {
  return {{"general.architecture", std::string("llama")},
          {"general.alignment", uint64_t{32}},
          {"small", uint64_t{7}},
          {"large", ~uint64_t{0}},
          {"negative", int64_t{-7}},
          {"very.negative", int64_t{-1} << 40},
          {"float", double{1e-5f}},
          {"double", 0.1},
          {"yes", true},
          {"bools", std::vector<bool>{true, false}},
          {"counts", std::vector<uint64_t>{1, 2, 3}},
          {"large.counts", std::vector<uint64_t>{1, uint64_t{1} << 40}},
          {"signed", std::vector<int64_t>{-1, 2}},
          {"large.signed", std::vector<int64_t>{-1, int64_t{1} << 40}},
          {"scores", std::vector<double>{0.5, -2, double{0.1f}}},
          {"doubles", std::vector<double>{0.5, 0.1, 1e300}},
          {"tokens", std::vector<std::string>{"a", "", "\xff"}},
          {"nothing", std::vector<std::string>{}}};
}

TEST(WriteGguf, WhatIsWrittenIsReadAndWrittenAgainTheSame) {
  const TempFolder folder;
  std::vector<checkpoint::RandomTensor> tensors;
  for (int i = 0; i < tensor::kDTypes; ++i) {
    const DType dtype = static_cast<DType>(i);
    if (tensor::info(dtype).weight && !quant::is_scaled(dtype))
      tensors.push_back({"w." + std::string(tensor::name(dtype)), dtype, {2, 3, 256}, 1});
  }
  const auto source = checkpoint::random_source(tensors, {}, 3);
  checkpoint::write_gguf(folder / "a.gguf", copies(*source), all_kinds());
  const auto read = checkpoint::open_gguf(folder / "a.gguf");
  expect_same(*source, *read);
  EXPECT_EQ(read->metadata(), all_kinds());
  checkpoint::write_gguf(folder / "b.gguf", copies(*read, 11), read->metadata());
  EXPECT_EQ(base::read_text(folder / "a.gguf"), base::read_text(folder / "b.gguf"));
}

TEST(WriteGguf, RefusesWhatTheFormatCannotHold) {
  const TempFolder folder;
  const auto refuse = [&](ErrorKind kind, std::initializer_list<std::string_view> words,
                          std::vector<TensorToWrite> list, const Metadata& metadata = {}) {
    expect_error(kind, words, [&] { checkpoint::write_gguf(folder / "a", list, metadata); });
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  };
  const auto nothing = [](const auto&) {};
  refuse(ErrorKind::unsupported, {"w", "f8_e4m3"}, {{"w", DType::f8_e4m3, {4}, nothing}});
  refuse(ErrorKind::unsupported, {"w", "5 dimensions"}, {{"w", DType::f32, {1, 1, 1, 1, 1}, nothing}});
  refuse(ErrorKind::bad_input, {"64"}, {{std::string(64, 'n'), DType::f32, {1}, nothing}});
  refuse(ErrorKind::bad_input, {"1 to 63 bytes"}, {{"", DType::f32, {1}, nothing}});
  refuse(ErrorKind::bad_input, {"taken"}, {{"w", DType::f32, {1}, nothing}, {"w", DType::f32, {1}, nothing}});
  refuse(ErrorKind::bad_input, {"100 values"}, {{"w", DType::q4_k, {100}, nothing}});
  refuse(ErrorKind::unsupported, {"general.alignment 64"}, {}, {{"general.alignment", uint64_t{64}}});
  refuse(ErrorKind::internal, {"0 bytes were produced"}, {{"w", DType::f32, {1}, nothing}});
}

TEST(WriteGguf, AFailureInTheMiddleLeavesTheOldFile) {
  const TempFolder folder;
  const auto target = folder.write("a.gguf", "old");
  const std::vector<TensorToWrite> list = {
      {"w", DType::f32, {1}, [](const auto&) { throw std::runtime_error("source lost"); }}};
  EXPECT_THROW(checkpoint::write_gguf(target, list, {}), std::runtime_error);
  EXPECT_EQ(base::read_text(target), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

}  // namespace
}  // namespace coterie
