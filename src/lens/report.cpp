#include "lens/report.h"

#include <fstream>

#include "base/error.h"
#include "lens/report_page.h"

namespace coterie::lens {

using base::Json;

namespace {

constexpr std::string_view kPlace = "/*DATA*/";

// Inside of a script element no text may end it.
std::string for_script(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace), safe;
  for (const char c : text)
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  return safe;
}

}  // namespace

std::string training_report(std::span<const RunLog> runs) {
  base::require(!runs.empty(), "lens::training_report", "no runs");
  Json data = Json::array();
  for (const RunLog& run : runs)
    data.push_back({{"name", run.name},
                    {"start", run.start},
                    {"steps", run.steps},
                    {"routers", run.routers},
                    {"evaluations", run.evaluations}});
  std::string page(report_page());
  const size_t place = page.find(kPlace);
  base::require(place != std::string::npos, "lens::training_report", "the page has no place for the data");
  return page.replace(place, kPlace.size(), for_script(data));
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
