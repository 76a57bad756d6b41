#pragma once

#include <string>
#include <vector>

#include "families/known/ssm.h"

// What Zamba and Zamba2 share: Mamba layers, some of which begin with a transformer block whose weights are stored
// once.
namespace coterie::families::zamba {

/// Adds a use of a shared block to every "hybrid" layer, `blocks` of them taking turns.
void share(ModelSpec& spec, const layers::SharedBlockSpec& block, int64_t blocks,
           const std::vector<std::string>& kinds);

/// The shared block's attention: its input is as wide as hidden state and embedding together, its scale that of half a
/// head. Without positions.
layers::AttentionSpec attention(ConfigReader& config, int64_t width, int64_t heads);

/// Names of everything but the mixer; `shared` is what the files call the shared block.
NameTable names(const std::string& shared);

}  // namespace coterie::families::zamba
