#include "lens/report.h"

#include <fstream>

#include "base/error.h"
#include "lens/page.h"
#include "lens/report_page.h"

namespace coterie::lens {

using base::Json;

std::string training_report(std::span<const RunLog> runs) {
  base::require(!runs.empty(), "lens::training_report", "no runs");
  Json data = Json::array();
  for (const RunLog& run : runs)
    data.push_back({{"name", run.name},
                    {"start", run.start},
                    {"steps", run.steps},
                    {"routers", run.routers},
                    {"evaluations", run.evaluations}});
  return fill_page(report_page(), data);
}

bool is_training_report(const std::filesystem::path& file) {
  // By how the page begins, up to and with its title.
  const std::string_view page = report_page();
  const size_t end = page.find("</title>");
  base::require(end != std::string_view::npos, "lens::is_training_report", "the page has no title");
  std::string begins(end, '\0');
  std::ifstream in(file, std::ios::binary);
  return in.read(begins.data(), static_cast<std::streamsize>(end)) && begins == page.substr(0, end);
}

}  // namespace coterie::lens
