#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "tensor/dtype.h"

// The numbers GGUF files use for types (ggml.h `ggml_type`, gguf.h `gguf_type`).
namespace coterie::checkpoint {

/// Throws unsupported: by name for types that ggml has and this engine lacks, else by number.
tensor::DType dtype_of_ggml(uint32_t id, std::string_view where);
/// Throws unsupported for types that GGUF has no number for.
uint32_t ggml_id(tensor::DType dtype, std::string_view where);

enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };
inline constexpr uint32_t kGgufTypes = 13;
/// Bytes of a value; of a string and an array the least they can take, their length field.
int64_t least_bytes(GgufType type);

inline constexpr uint32_t kGgufVersion = 3;
inline constexpr uint32_t kGgufMaxDims = 4;
inline constexpr int64_t kGgufAlignment = 32;  // unless the key general.alignment says otherwise

}  // namespace coterie::checkpoint
