#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace coterie::train {

/// Which pieces of the token stream a run sees, and when: a pure function of the seed and the number of the sample, so
/// a run that resumes goes on where it was, and data never has to be moved. A window is `length` inputs and the token
/// after them, so that each token is predicted once an epoch.
class Windows {
 public:
  enum class Order {
    shuffled,    // each window once an epoch, in an order drawn for the epoch; later epochs are cut at other places.
                 // A cut may make one window more than another; then one, another each time, is left out
    sequential,  // from the first to the last, again and again
    random,      // each sample begins anywhere, with replacement (nanoGPT, makeMoE)
  };

  /// Windows over `tokens` tokens. Throws bad_input when not even one window and its last target fit.
  Windows(int64_t tokens, int64_t length, Order order, uint64_t seed, std::string_view where);

  /// The first token of sample number `sample` >= 0 of the run; begin + length < tokens.
  int64_t begin(int64_t sample) const;
  /// Samples of an epoch.
  int64_t per_epoch() const { return windows_; }
  int64_t length() const { return length_; }

 private:
  int64_t shift(int64_t epoch) const;
  int64_t count(int64_t shift) const { return (tokens_ - 1 - shift) / length_; }
  int64_t permuted(int64_t index, int64_t count, int64_t epoch) const;

  int64_t tokens_, length_, windows_;
  Order order_;
  uint64_t seed_;
};

}  // namespace coterie::train
