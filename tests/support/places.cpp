#include "support/places.h"

namespace coterie::tests {

const std::string& source_folder() {
  static const std::string folder = COTERIE_TEST_SOURCES;
  return folder;
}

const std::string& build_folder() {
  static const std::string folder = COTERIE_TEST_BUILD;
  return folder;
}

}  // namespace coterie::tests
