#include "models/network.h"

namespace coterie::models {

Network::Network(const ModelSpec& spec)
    : embedding(spec.vocabulary, spec.width, spec.learned_positions),
      final_norm(spec.final_norm, spec.width),
      vocabulary_(spec.vocabulary),
      width_(spec.width),
      tied_(spec.tied_embeddings),
      has_head_bias_(spec.head_bias) {
  if (spec.prediction) prediction.emplace(*spec.prediction, spec.width);
  blocks.reserve(spec.blocks.size());
  for (const layers::SharedBlockSpec& block : spec.shared)
    shared.push_back(std::make_shared<layers::SharedBlock>(block, spec.width));
  for (const BlockSpec& block : spec.blocks) blocks.emplace_back(block, spec.width, shared);
}

namespace {

std::string path_of(size_t block) { return "blocks." + std::to_string(block); }

}  // namespace

void Network::read(layers::TensorReader& reader) const {
  // Layers list their tensors once, for binding; Reading hands them on as what they are, constant.
  layers::Reading reading(reader);
  const_cast<Network*>(this)->visit(reading);
}

void Network::read_block(layers::TensorReader& reader, size_t block) const {
  layers::Reading reading(reader);
  const_cast<layers::Block&>(blocks[block]).visit(reading, path_of(block));
}

void Network::visit(layers::TensorVisitor& visitor) {
  embedding.visit(visitor, "embedding");
  if (prediction) prediction->visit(visitor, "prediction");
  for (size_t i = 0; i < blocks.size(); ++i) blocks[i].visit(visitor, path_of(i));
  final_norm.visit(visitor, "final_norm");
  if (!tied_) visitor.matrix({"head", layers::Place::output_embeddings}, vocabulary_, width_, head_);
  if (has_head_bias_) visitor.vector({"head.bias", layers::Place::output_embeddings}, vocabulary_, head_bias_);
}

void Network::arrange() {
  names_.number([this](layers::TensorVisitor& visitor) { visit(visitor); });
  for (layers::Block& block : blocks) block.arrange();
}

}  // namespace coterie::models
