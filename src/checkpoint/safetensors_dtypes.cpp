#include "checkpoint/safetensors_dtypes.h"

#include <array>
#include <string>
#include <utility>

#include "base/error.h"
#include "checkpoint/parsed_file.h"

namespace coterie::checkpoint {

using tensor::DType;

namespace {
constexpr std::array<std::pair<std::string_view, DType>, 12> kNames = {{
    {"F32", DType::f32},
    {"F16", DType::f16},
    {"BF16", DType::bf16},
    {"F64", DType::f64},
    {"I8", DType::i8},
    {"I16", DType::i16},
    {"I32", DType::i32},
    {"I64", DType::i64},
    {"U8", DType::u8},
    {"BOOL", DType::boolean},
    {"F8_E4M3", DType::f8_e4m3},
    {"F8_E5M2", DType::f8_e5m2},
}};
}  // namespace

DType dtype_of_safetensors(std::string_view name, std::string_view where) {
  std::string known;
  for (const auto& [word, dtype] : kNames) {
    if (word == name) return dtype;
    known += (known.empty() ? "" : ", ") + std::string(word);
  }
  base::fail(base::ErrorKind::unsupported, where, "dtype {} is not read; known are {}", shown(name), known);
}

std::string_view safetensors_name(DType dtype, std::string_view where) {
  for (const auto& [word, known] : kNames)
    if (known == dtype) return word;
  throw base::Error(base::ErrorKind::unsupported, std::string(where),
                    fmt::format("safetensors has no dtype for {}", tensor::name(dtype)),
                    "decode it (`convert.to` bf16), or write GGUF instead");
}

}  // namespace coterie::checkpoint
