#pragma once

#include <string>
#include <string_view>

#include "tensor/dtype.h"

namespace coterie::cli {

/// Formats that weights are read in, or the fewer that they are written in.
enum class Formats { read, written };

/// The format of weights that a user names after `option` ("--to"). Throws bad_input, naming the option, the nearest
/// format that is meant and those there are; for a mixture of formats (q4_k_m) it says which command writes it.
tensor::DType weight_format(std::string_view option, const std::string& word, Formats which);

}  // namespace coterie::cli
