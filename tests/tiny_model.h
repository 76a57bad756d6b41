#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "checkpoint/random_source.h"
#include "families/open.h"
#include "models/decoder.h"

// Random tiny models of every family, for laws and for tests of the binder.
namespace coterie::tiny {

/// A config.json of each family, small, odd where it can be, with the family's switches on.
const std::map<std::string, base::Json>& configs();

/// Weights of `spec` under Hugging Face's first name for each, f32, drawn so that routing is decisive.
std::vector<checkpoint::MemoryTensor> weights(const models::ModelSpec& spec, uint64_t seed);
checkpoint::MemoryTensor& find(std::vector<checkpoint::MemoryTensor>& tensors, const std::string& name);

/// A model that owns what it points into.
struct Model {
  std::unique_ptr<checkpoint::TensorSource> source;
  std::unique_ptr<models::Decoder> decoder;
};
Model bind(const models::ModelSpec& spec, std::vector<checkpoint::MemoryTensor> tensors,
           checkpoint::Metadata metadata = {});
Model make(const std::string& family, uint64_t seed = 1);

}  // namespace coterie::tiny
