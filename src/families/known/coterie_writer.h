#pragma once

#include "families/config/config_writer.h"

namespace coterie::families {

/// The config.json of the engine's own model_type (coterie.cpp reads it). Of a parent of that type everything but the
/// experts goes along as it is.
void coterie_to_config(const ModelSpec& spec, ConfigWriter& config);

}  // namespace coterie::families
