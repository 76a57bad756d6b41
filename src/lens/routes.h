#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace coterie::lens {

/// Which experts each token was sent to, layer by layer, and nothing else: what a policy of memory has to know.
struct Routes {
  std::string model;                       // what a file says of it
  int64_t layers = 0;                      // with routers, in their order
  int64_t experts = 0;                     // of the widest of them
  int64_t choices = 0;                     // K: places a token has in each layer
  std::vector<int16_t> ids;                // [N, L, K]; -1 where there is none
  std::vector<int64_t> sequence_begin{0};  // [sequences + 1], of tokens
  std::vector<int64_t> prompt;  // [sequences]: how many of its first tokens were its prompt, where a file says so
  int64_t expert_bytes = 0;     // of one expert, on average; 0: not said

  int64_t tokens() const { return sequence_begin.back(); }
  int64_t sequences() const { return static_cast<int64_t>(sequence_begin.size()) - 1; }
  std::span<const int16_t> at(int64_t token, int64_t layer) const {
    return std::span(ids).subspan(static_cast<size_t>((token * layers + layer) * choices),
                                  static_cast<size_t>(choices));
  }
};

/// From a trace (lens/trace.h), or from a .jsonl file: a first line that describes the model, {"model", "experts", "k",
/// "layers" (else as many as the first token has), "expert_bytes": [of its sizes]}, then a line for each token,
/// {"experts": [[ids of a layer], …], "phase": 0 in a prompt and 1 behind it}; layers that are missing at its end sent
/// the token nowhere. Throws bad_input, with the line, for a file that contradicts itself.
Routes read_routes(const std::filesystem::path& path);

}  // namespace coterie::lens
