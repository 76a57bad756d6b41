#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"
#include "train/instruction_data.h"
#include "train/recipe.h"
#include "train/run_folder.h"
#include "train/token_file.h"
#include "train/tuned_model.h"
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

/// What a run reads a number of: a piece of a stream, cut into windows, or rows of instructions. Of those `windows`
/// only orders the rows.
struct Split {
  std::shared_ptr<const TokenStream> stream;
  int64_t begin = 0;  // of the piece in the stream
  Windows windows;
  std::shared_ptr<const InstructionRows> rows = nullptr;

  /// Sample number `sample`, appended: inputs, for each the token after it, or -1 where it is not scored, and how many
  /// inputs each of its sequences has: a window is one.
  void read(int64_t sample, std::vector<int32_t>& inputs, std::vector<int32_t>& targets,
            std::vector<int64_t>& lengths) const;
  /// The inputs of samples [first, first + count), and the targets among them that are scored.
  int64_t inputs(int64_t first, int64_t count) const;
  int64_t scored(int64_t first, int64_t count) const;
};

/// What a run reads: its vocabulary, and the tokens to train on and to be judged by.
struct RunData {
  text::Tokenizer tokenizer;
  Split training;
  std::optional<Split> validation;  // in order, from the first window to the last
  // Mean bytes of text of the validation tokens that an evaluation looks at, for bits per byte; 0 without validation.
  double bytes_per_token = 0;
  base::Json instructions = {};  // how many samples there are, were cut and were dropped, for the log; null for texts
};

/// Takes vocabulary and tokens from the run's folder when it is `resumed` and has them, else makes them there as the
/// recipe says. Throws not_found and
/// bad_input naming the file; a text that is shorter than one window; a validation split that is; a resumed run's files
/// of tokens that are not what they were.
/// `tuned`: the model that is tuned, whose vocabulary and chat template are used; null for one that is made.
RunData open_data(const Recipe& recipe, const RunFolder& folder, bool resumed, const TunedModel* tuned,
                  const std::function<void(const std::string&)>& note);

}  // namespace coterie::train
