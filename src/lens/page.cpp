#include "lens/page.h"

#include "base/error.h"

namespace coterie::lens {

std::string fill_page(std::string_view page, const base::Json& data) {
  constexpr std::string_view kPlace = "/*DATA*/";
  const size_t place = page.find(kPlace);
  base::require(place != std::string_view::npos, "lens::fill_page", "the page has no place for the data");
  // Inside of a script element no text may end it.
  std::string safe;
  for (const char c : data.dump(-1, ' ', false, base::Json::error_handler_t::replace))
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  return std::string(page.substr(0, place)) + safe + std::string(page.substr(place + kPlace.size()));
}

}  // namespace coterie::lens
