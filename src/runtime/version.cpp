#include "runtime/version.h"

namespace coterie::runtime {

std::string_view version() { return COTERIE_VERSION; }

}  // namespace coterie::runtime
