#include "runtime/ensemble_parts.h"

#include <algorithm>

#include "families/ensemble/ensemble_decoder.h"
#include "families/ensemble/ensemble_model.h"

namespace coterie::runtime {

using families::EnsembleDecoder;

std::pair<int64_t, int64_t> EnsembleParts::place(int64_t layer) const {
  if (names.empty()) return {0, layer};
  const auto next = std::upper_bound(first_layer.begin(), first_layer.end(), layer);
  const int64_t model = next - first_layer.begin() - 1;
  return {model, layer - first_layer[static_cast<size_t>(model)]};
}

EnsembleParts ensemble_parts(const Engine& engine) {
  EnsembleParts result;
  const auto* decoder = dynamic_cast<const EnsembleDecoder*>(engine.model().decoder.get());
  if (!decoder) return result;
  result.names = families::names_of(decoder->gate(), decoder->models());
  for (int64_t i = 0; i < result.count(); ++i) result.first_layer.push_back(decoder->first_layer(i));
  return result;
}

std::shared_ptr<const void> listen_to_gate(Engine& engine,
                                           std::function<void(tensor::ConstMatrix weights)> on_weights) {
  auto* decoder = dynamic_cast<EnsembleDecoder*>(engine.model().decoder.get());
  return decoder ? decoder->listen_while(std::move(on_weights)) : nullptr;
}

}  // namespace coterie::runtime
