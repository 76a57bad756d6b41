#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace coterie::cli {

/// The loss of every prediction of a text, for other programs: eval --losses. A safetensors file of
///   ids       I32 [N]  the tokens that were predicted
///   before    I32 [N]  the token before each, which was read last
///   sequence  I32 [N]  the window it is in, 0, 1, …
///   position  I32 [N]  where it stands there
///   loss      F32 [N]  -log of the probability that it had, in nats
class TokenLosses {
 public:
  /// A window's tokens [T] and the T - 1 losses of those behind the first.
  void add(std::span<const int32_t> ids, std::span<const double> losses);
  /// Under a temporary name, then renamed. Throws io.
  void write(const std::filesystem::path& path, const std::string& model, const std::string& text) const;

 private:
  std::vector<int32_t> ids_, before_, sequence_, position_;
  std::vector<float> loss_;
  int32_t windows_ = 0;
};

}  // namespace coterie::cli
