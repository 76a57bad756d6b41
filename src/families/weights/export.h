#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/tensor_sink.h"
#include "checkpoint/tensor_source.h"
#include "families/names/name_table.h"
#include "models/decoder.h"

namespace coterie::families {

/// Whether a format has too few bits for a router: below 8 its rounding changes which experts are chosen, which costs
/// far more than the same rounding inside an expert. Such routers are read with a warning and never written.
bool too_coarse_for_a_router(tensor::DType dtype);

/// The key of safetensors metadata that holds the model's name for people (Model::name). A folder's own name says
/// nothing where it is one of a training run's checkpoints.
inline constexpr const char* kNameKey = "coterie.name";

/// Reads the floats of one expert's weight that is not in memory here (a rank of several trains a part of the experts):
/// that of expert number `expert` in the stack `path`.
using ReadExpert = std::function<void(const std::string& path, int64_t expert, std::span<float> into)>;

/// Every weight of a bound model, as it is, under the first name its table gives: experts one by one or stacked as
/// that name has them. Vectors are written as f32, which is what they are in memory. The decoder must outlive the use.
/// Experts without bytes are read by `elsewhere` when their turn comes.
std::vector<checkpoint::TensorToWrite> tensors_to_write(const models::Decoder& decoder, const NameTable& names,
                                                        const ReadExpert& elsewhere = {});

/// Every tensor of a source, as it is. Refuses (unsupported) a router below 8 bits, by the names the families give it.
std::vector<checkpoint::TensorToWrite> tensors_to_write(const checkpoint::TensorSource& source);

}  // namespace coterie::families
