#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "families/open.h"
#include "layers/tensor_list.h"
#include "surgery/quantize/importance.h"
#include "surgery/quantize/preset.h"
#include "surgery/write/recode.h"
#include "tensor/dtype.h"

namespace coterie::surgery {

struct ConvertOptions {
  // The format of every matrix, or a mixture of them; neither: as they are. In a GGUF vectors, routers and the gate of
  // a shared expert become f32, without a mixture the output matrix q6_k where the format has fewer than 8 bits, and
  // rows that are not a whole number of blocks what families::fitting_format says.
  std::optional<tensor::DType> to = {};
  const Preset* preset = nullptr;
  std::map<layers::Place, tensor::DType> places = {};  // of the matrices there, instead of all that
  // How much squared errors count, by column and expert. Matrices that it has nothing of, and experts that it never
  // saw, are rounded as without it.
  const Importance* importance = nullptr;
  bool requantise = false;  // from block formats to others: both roundings' errors stay
  bool tokenizer = true;
  int threads = 0;
  // In values; called often. What it throws ends the writing, with nothing left behind.
  std::function<void(std::string_view tensor, int64_t done, int64_t all)> on_progress = {};
};

struct Converted {
  int64_t tensors = 0, file_bytes = 0;
  std::map<tensor::DType, int64_t> values;  // how many are stored in each format
  std::map<tensor::DType, Loss> losses;     // of those that were rounded to it
  std::vector<std::string> notes;           // what the file does not hold or does otherwise, and why
};

/// Writes a model, tensor by tensor, so that one larger than memory passes through; under a temporary name until it is
/// whole. `out` ends in .gguf: a GGUF file, under llama.cpp's names; else a Hugging Face folder with config.json, one
/// model.safetensors and the tokenizer's files. The source is either. A GGUF written from a GGUF keeps its metadata and
/// names, and the bytes of every tensor that keeps its format.
///
/// In a folder every tensor has the dtype asked for; else matrices keep theirs, and vectors and routers, which GGUF has
/// in f32, get that of most matrices where it holds their values exactly. Block formats have no safetensors form.
///
/// Before anything is written what a reader would find is compared with the model: refused (unsupported, naming the
/// field) is a model that GGUF's keys of its architecture, or a config.json of its family, cannot say; an architecture
/// that there is not; a router below 8 bits; a format no weight can have; block formats to be rounded to others without
/// `requantise`; a folder that is there. Throws io when the disk is full; then nothing is left.
Converted convert(const families::Model& model, const std::filesystem::path& out, const ConvertOptions& options);

/// Whether weights are written in this format; of others (codebooks, ternary, quantised safetensors) they are only
/// read.
bool is_written(tensor::DType dtype);

}  // namespace coterie::surgery
