#pragma once

#include <string_view>

#include "tensor/dtype.h"

namespace coterie::checkpoint {

/// The type that safetensors calls `name` ("BF16"). Throws unsupported, by name; `where` names the tensor.
tensor::DType dtype_of_safetensors(std::string_view name, std::string_view where);
/// The name safetensors has for a type. Throws unsupported for block formats, which the format has no names for.
std::string_view safetensors_name(tensor::DType dtype, std::string_view where);

}  // namespace coterie::checkpoint
