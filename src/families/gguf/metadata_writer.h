#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "checkpoint/tensor_source.h"
#include "models/spec.h"

namespace coterie::families {

/// Writes GGUF metadata for the families: keys below "{architecture}.".
class MetadataWriter {
 public:
  MetadataWriter(checkpoint::Metadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(std::string(architecture) + ".") {}

  template <typename T>
  void put(std::string_view key, T value) {
    metadata_[prefix_ + std::string(key)] = std::move(value);
  }
  void erase(std::string_view key) { metadata_.erase(prefix_ + std::string(key)); }
  bool has(std::string_view key) const { return metadata_.contains(prefix_ + std::string(key)); }

  /// Everything that keys with one meaning for all architectures say of a model.
  void describe(const models::ModelSpec& spec);
  /// rope.*
  void rope(const layers::RopeSpec& rope);
  /// For architectures whose layers take turns: the window, and which layers slide.
  void window_pattern(const models::ModelSpec& spec);

 private:
  void attention(const layers::AttentionSpec& attention);
  void latent(const layers::LatentAttentionSpec& mla);
  void mamba(const layers::MambaSpec& mamba);
  void mamba(const layers::Mamba2Spec& mamba);
  void mixers(const models::ModelSpec& spec);
  void multipliers(const models::ModelSpec& spec);
  void router(const layers::RouterSpec& router);
  void ffns(const models::ModelSpec& spec);

  checkpoint::Metadata& metadata_;
  std::string prefix_;
};

}  // namespace coterie::families
