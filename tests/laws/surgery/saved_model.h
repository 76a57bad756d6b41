#pragma once

#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"
#include "families/family.h"
#include "families/open.h"
#include "support/temp_folder.h"
#include "tiny_model.h"

namespace coterie::laws {

/// A config with some keys replaced; null takes one away.
inline base::Json with(base::Json config, const base::Json& changes) {
  for (const auto& [key, value] : changes.items())
    if (value.is_null())
      config.erase(key);
    else
      config[key] = value;
  return config;
}

/// Writes a tiny model with random weights as a folder.
inline void save_tiny(const base::Json& config, const std::filesystem::path& folder, uint64_t seed = 1) {
  const models::ModelSpec spec = families::read_config(config, "tiny", true);
  const std::vector<checkpoint::MemoryTensor> drawn = tiny::weights(spec, seed);
  std::vector<checkpoint::TensorToWrite> tensors;
  for (const checkpoint::MemoryTensor& t : drawn)
    tensors.push_back({t.name, t.dtype, t.shape, [&t](const auto& write) { write(t.bytes); }});
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << config.dump();
  checkpoint::write_safetensors(folder / "model.safetensors", tensors);
}

}  // namespace coterie::laws
