#include "layers/tensor_list.h"

#include <array>

namespace coterie::layers {

std::string_view name(Place place) {
  static constexpr std::array<std::string_view, kPlaces> kNames = {
      "input_embeddings", "mixer", "router", "experts", "shared_experts", "dense_ffn", "norms", "output_embeddings"};
  return kNames[static_cast<size_t>(place)];
}

}  // namespace coterie::layers
