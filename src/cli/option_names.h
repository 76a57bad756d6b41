#pragma once

#include <string>

namespace coterie::cli {

/// "--top-k" for "top_k": the library's errors name fields, and a user of the command line knows options. Anything else
/// is given back as it is.
std::string option_of(const std::string& where);

}  // namespace coterie::cli
