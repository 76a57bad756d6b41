#include "checkpoint/gguf_types.h"

#include <array>
#include <optional>

#include "base/error.h"

namespace coterie::checkpoint {

using tensor::DType;

namespace {
struct GgmlType {
  std::string_view name;
  std::optional<DType> dtype;
};
constexpr std::array<GgmlType, 43> kTypes = {{
    {"f32", DType::f32},
    {"f16", DType::f16},
    {"q4_0", DType::q4_0},
    {"q4_1", DType::q4_1},
    {"q4_2 (withdrawn)", {}},
    {"q4_3 (withdrawn)", {}},
    {"q5_0", DType::q5_0},
    {"q5_1", DType::q5_1},
    {"q8_0", DType::q8_0},
    {"q8_1", {}},
    {"q2_k", DType::q2_k},
    {"q3_k", DType::q3_k},
    {"q4_k", DType::q4_k},
    {"q5_k", DType::q5_k},
    {"q6_k", DType::q6_k},
    {"q8_k", {}},
    {"iq2_xxs", DType::iq2_xxs},
    {"iq2_xs", DType::iq2_xs},
    {"iq3_xxs", DType::iq3_xxs},
    {"iq1_s", DType::iq1_s},
    {"iq4_nl", DType::iq4_nl},
    {"iq3_s", DType::iq3_s},
    {"iq2_s", DType::iq2_s},
    {"iq4_xs", DType::iq4_xs},
    {"i8", DType::i8},
    {"i16", DType::i16},
    {"i32", DType::i32},
    {"i64", DType::i64},
    {"f64", DType::f64},
    {"iq1_m", DType::iq1_m},
    {"bf16", DType::bf16},
    {"q4_0_4_4 (withdrawn)", {}},
    {"q4_0_4_8 (withdrawn)", {}},
    {"q4_0_8_8 (withdrawn)", {}},
    {"tq1_0", DType::tq1_0},
    {"tq2_0", DType::tq2_0},
    {"iq4_nl_4_4 (withdrawn)", {}},
    {"iq4_nl_4_8 (withdrawn)", {}},
    {"iq4_nl_8_8 (withdrawn)", {}},
    {"mxfp4", DType::mxfp4},
    {"nvfp4", {}},
    {"q1_0", {}},
    {"q2_0", {}},
}};
}  // namespace

DType dtype_of_ggml(uint32_t id, std::string_view where) {
  if (id < kTypes.size() && kTypes[id].dtype) return *kTypes[id].dtype;
  std::string known;
  for (const GgmlType& type : kTypes)
    if (type.dtype) known += (known.empty() ? "" : ", ") + std::string(type.name);
  const std::string found =
      id < kTypes.size() ? fmt::format("type {}", kTypes[id].name) : fmt::format("the unknown ggml type {}", id);
  throw base::Error(base::ErrorKind::unsupported, std::string(where), fmt::format("has {}, which is not read", found),
                    "known are " + known);
}

uint32_t ggml_id(DType dtype, std::string_view where) {
  for (uint32_t id = 0; id < kTypes.size(); ++id)
    if (kTypes[id].dtype == dtype) return id;
  throw base::Error(base::ErrorKind::unsupported, std::string(where),
                    fmt::format("GGUF has no type for {}", tensor::name(dtype)),
                    "choose one that it has: `convert.to` bf16, q8_0, q4_k_m, …");
}

int64_t least_bytes(GgufType type) {
  constexpr std::array<int64_t, kGgufTypes> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};
  return kBytes[static_cast<size_t>(type)];
}

}  // namespace coterie::checkpoint
