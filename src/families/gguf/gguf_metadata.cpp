#include "families/gguf/gguf_metadata.h"

#include "base/error.h"
#include "families/family.h"
#include "families/gguf/metadata_writer.h"

namespace coterie::families {

using checkpoint::Metadata;

std::string gguf_architecture(const models::ModelSpec& spec) {
  if (!spec.family.architecture.empty()) return spec.family.architecture;
  const std::string architecture(family_of(spec).architecture);
  if (architecture.empty())
    base::fail(base::ErrorKind::unsupported, "GGUF", "there is no architecture for {}", spec.family.shown());
  return architecture;
}

Metadata gguf_metadata(const models::ModelSpec& spec, const std::string& name) {
  const std::string architecture = gguf_architecture(spec);
  Metadata metadata;
  metadata["general.architecture"] = architecture;
  metadata["general.name"] = name;
  metadata["general.quantization_version"] = uint64_t{2};
  MetadataWriter writer(metadata, architecture);
  writer.describe(spec);
  if (const Family& family = family_of(spec); family.to_gguf) family.to_gguf(spec, writer);
  return metadata;
}

tensor::DType fitting_format(tensor::DType dtype, int64_t cols) {
  using tensor::DType;
  while (cols % tensor::info(dtype).block_values != 0) {
    switch (dtype) {
      case DType::q4_k: dtype = DType::q5_0; break;
      case DType::q5_k: dtype = DType::q5_1; break;
      case DType::q6_k: dtype = DType::q8_0; break;
      case DType::q2_k:
      case DType::q3_k:
      case DType::tq1_0:
      case DType::tq2_0: dtype = DType::q4_0; break;
      case DType::iq1_s:
      case DType::iq1_m:
      case DType::iq2_xxs:
      case DType::iq2_xs:
      case DType::iq2_s:
      case DType::iq3_xxs:
      case DType::iq3_s:
      case DType::iq4_xs: dtype = DType::iq4_nl; break;
      default: dtype = DType::f16;
    }
  }
  return dtype;
}

}  // namespace coterie::families
