#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace coterie::cli {

/// "8G", "2.4 GB", "900M", "1500000": bytes, in decimal units as disks and model cards count; Ki, Mi, Gi are binary.
/// Throws bad_input, naming `option`, for anything else and for less than 1.
int64_t bytes_option(std::string_view option, const std::string& text);
/// A rate: "1.1G", "1.1 GB/s", "900M": bytes a second, written as bytes_option writes them.
double rate_option(std::string_view option, const std::string& text);
/// "40%": 0.4. Throws bad_input for a share that is not above 0 and at most 100 %.
double share_option(std::string_view option, const std::string& text);

/// What is wrong with such a text, for a check while options are read; empty: nothing. An empty text is wrong, too.
std::string size_problem(const std::string& text);
std::string rate_problem(const std::string& text);

}  // namespace coterie::cli
