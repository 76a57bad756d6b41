#pragma once

#include <cstdint>

namespace coterie::base {

/// FNV-1a (Fowler, Noll, Vo), 64 bits: begin with kFnvBegin, then a step for each byte, or for each number where all
/// are of one kind. To know data again and to draw by names; it resists nobody.
inline constexpr uint64_t kFnvBegin = 0xcbf29ce484222325;
constexpr uint64_t fnv_step(uint64_t hash, uint64_t value) { return (hash ^ value) * 0x100000001b3; }

}  // namespace coterie::base
