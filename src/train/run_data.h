#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/token_file.h"
#include "train/windows.h"

namespace coterie::train {

/// Files of tokens one behind the other, as one stream.
class TokenStream {
 public:
  explicit TokenStream(std::vector<TokenFile> files);
  int64_t size() const { return ends_.back(); }
  /// Ids [begin, begin + out.size()).
  void read(int64_t begin, std::span<int32_t> out) const;

 private:
  std::vector<TokenFile> files_;
  std::vector<int64_t> ends_;
};

/// A piece of a stream, cut into windows.
struct Split {
  std::shared_ptr<const TokenStream> stream;
  int64_t begin = 0;  // of the piece in the stream
  Windows windows;

  /// Window number `sample`: inputs and the token after each, both [windows.length()].
  void read(int64_t sample, std::span<int32_t> inputs, std::span<int32_t> targets) const;
};

/// What a run reads: its vocabulary, and the tokens to train on and to be judged by.
struct RunData {
  text::Tokenizer tokenizer;
  Split training;
  std::optional<Split> validation;  // in order, from the first window to the last
  // Mean bytes of text of the validation tokens that an evaluation looks at, for bits per byte; 0 without validation.
  double bytes_per_token = 0;
};

/// Takes vocabulary and tokens from the run's folder when it is `resumed` and has them, else makes them there as the
/// recipe says. Throws not_found and
/// bad_input naming the file; a text that is shorter than one window; a validation split that is; a resumed run's files
/// of tokens that are not what they were.
RunData open_data(const Recipe& recipe, const RunFolder& folder, bool resumed,
                  const std::function<void(const std::string&)>& note);

}  // namespace coterie::train
