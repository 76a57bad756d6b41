#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "families/open.h"
#include "families/random_model.h"
#include "tensor/dtype.h"

namespace coterie::runtime {

struct ShapeOptions {
  std::string shape;   // "qwen3-30b-a3b"
  int64_t layers = 0;  // 0 = as published
  tensor::DType quant = tensor::DType::q4_k;
  uint64_t seed = 1;
  // Rows of routers are scaled by exp(router_spread * N(0, 1)), so that some experts are met far more often than
  // others, in any engine; 0: alike, and tokens are routed evenly.
  double router_spread = 0;
};

/// The published shapes that are known, as one line.
std::string shape_names();

/// A model of a published shape with random weights, in memory: no tokenizer. Throws bad_input for an unknown shape or
/// format, out_of_memory, with the figure, before it makes what would not fit.
families::Model shape_model(const ShapeOptions& options, const families::OpenOptions& open);

/// The same model as a GGUF file, so that other engines can be measured on the same weights, or ours on a file that is
/// larger than memory: one tensor is in memory at a time. `on_progress` is told the bytes that are written, of how
/// many. Throws unsupported, before anything is written, for a model that could not be read from such a file again (a
/// few layers of a hybrid, none of them with attention).
void write_shape_model(const ShapeOptions& options, const families::OpenOptions& open,
                       const std::filesystem::path& path,
                       const std::function<void(int64_t written, int64_t all)>& on_progress = {});
/// Any random model as a GGUF file, in the same way.
void write_random_model(const families::RandomModel& model, uint64_t seed, const std::filesystem::path& path,
                        const std::function<void(int64_t written, int64_t all)>& on_progress = {});
/// What other engines are known to refuse in it, in sentences.
std::vector<std::string> notes_of_written(const families::Model& model);

}  // namespace coterie::runtime
