#pragma once

#include <filesystem>

namespace coterie::cli {

/// Before a long run: throws bad_input where `out`, which is to be one file, is a folder, or exists without `force`.
void refuse_output_file(const std::filesystem::path& out, bool force);

}  // namespace coterie::cli
