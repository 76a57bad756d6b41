#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "comm/ranks.h"

namespace coterie::comm {

/// An error as it travels between ranks.
std::string error_text(const base::Error& error);

/// Throws the error of the first rank that has one, by name where it is another's. `errors` [R]: by error_text(), empty
/// where there is none.
void throw_first(const Ranks& ranks, const std::vector<std::string>& errors);

}  // namespace coterie::comm
