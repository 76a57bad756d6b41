#pragma once

namespace coterie::checkpoint {

/// The file of a folder that stands for several models and a gate (families/ensemble/gate.h), and no model by itself.
inline constexpr const char* kEnsembleFile = "gate.json";

}  // namespace coterie::checkpoint
