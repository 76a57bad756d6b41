#include "surgery/moe_tensor.h"

#include "families/names/name_table.h"

namespace coterie::surgery {

MoeTensor moe_tensor(std::string_view path) {
  constexpr std::string_view kMoe = "blocks.{layer}.moe.", kExperts = "experts.", kShared = "shared.", kBias = ".bias";
  const families::PathPattern found = families::path_pattern(path);
  std::string_view part = found.pattern;
  MoeTensor tensor;
  tensor.layer = found.layer;
  if (!part.starts_with(kMoe)) return tensor;
  part.remove_prefix(kMoe.size());
  using Kind = MoeTensor::Kind;
  if (part == "shared_gate") {
    tensor.kind = Kind::shared_gate;
  } else if (part.starts_with(kShared)) {
    tensor.kind = Kind::shared, tensor.part = part_by_name(part.substr(kShared.size()));
  } else if (part.starts_with(kExperts)) {
    part.remove_prefix(kExperts.size());
    tensor.kind = Kind::expert, tensor.bias = part.ends_with(kBias);
    if (tensor.bias) part.remove_suffix(kBias.size());
    tensor.part = part_by_name(part);
  } else {
    tensor.kind = Kind::router, tensor.name = part;
  }
  return tensor;
}

}  // namespace coterie::surgery
