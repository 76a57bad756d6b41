#include "runtime/prefix_key.h"

#include <bit>

#include <fmt/format.h>

namespace coterie::runtime {

std::string prefix_key(const models::Decoder& decoder, const PrefixFields& fields, int64_t length) {
  std::string key =
      fmt::format("salt {} {} routers {} {}", fields.salt.size(), fields.salt, fields.routers.size(), fields.routers);
  if (fields.seed) key += fmt::format(" seed {}", *fields.seed);
  // A weight is what its bits are.
  for (const double weight : fields.model_weights) key += fmt::format(" weight {:x}", std::bit_cast<uint64_t>(weight));
  if (models::starts_anew(decoder, 1, length))
    key += " long";
  else if (!decoder.cache_holds(1, length))
    key += fmt::format(" length {}", length);
  return key;
}

}  // namespace coterie::runtime
