#include "cli/print_formats.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <vector>

#include "base/error.h"
#include "base/nearest.h"
#include "surgery/quantize/preset.h"
#include "surgery/write/convert.h"

namespace coterie::cli {

tensor::DType weight_format(std::string_view option, const std::string& word, Formats which) {
  std::vector<std::string> names;
  for (int i = 0; i < tensor::kDTypes; ++i)
    if (const auto dtype = static_cast<tensor::DType>(i);
        which == Formats::written ? surgery::is_written(dtype) : tensor::info(dtype).weight)
      names.emplace_back(tensor::name(static_cast<tensor::DType>(i)));
  std::string lower(word);  // model cards write Q4_K
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (std::find(names.begin(), names.end(), lower) != names.end()) return tensor::dtype_by_name(lower);
  const std::string known = fmt::format("formats are {}", fmt::join(names, ", "));
  if (surgery::preset_by_name(lower))
    throw base::Error(base::ErrorKind::bad_input, std::string(option),
                      fmt::format("\"{}\" is a preset of several formats; one format is expected here", word),
                      fmt::format("coterie quantize --to {} writes that preset; {}", lower, known));
  const std::string near = base::did_you_mean(lower, names);
  throw base::Error(base::ErrorKind::bad_input, std::string(option),
                    fmt::format("\"{}\" is not a format of weights", word), near.empty() ? known : near + " " + known);
}

}  // namespace coterie::cli
