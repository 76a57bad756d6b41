#pragma once

#include <CLI/CLI.hpp>

namespace coterie::cli {

/// Checks of CLI11 for numbers that need not be whole: finite, and of at least 0, above 0, or within bounds. They say
/// what was found and what is expected, as between() does for whole ones.
CLI::Validator number_from_zero();
CLI::Validator number_above_zero();
CLI::Validator number_between(double least, double most);

}  // namespace coterie::cli
