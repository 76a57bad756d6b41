#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "lens/column_squares.h"
#include "models/decoder.h"

namespace coterie::surgery {

/// What calibration text tells about the columns of matrices: of each matrix, and of each expert of a stack, the sum of
/// the squares of what it was multiplied with, and by how many rows. Under the names that GGUF gives the tensors. Not
/// of routers, which are not rounded, nor of the head.
///
/// Files are llama.cpp's (general.type "imatrix": NAME.in_sum2 [items, cols] and NAME.counts [items, 1], f32), so that
/// llama-quantize reads these, and llama-imatrix's are read here.
struct Importance {
  using Entry = lens::Columns;
  std::map<std::string, Entry, std::less<>> entries;
  std::vector<std::string> texts;  // names of the calibration files
  int64_t chunks = 0, chunk_tokens = 0;

  /// Sums and counts of both: what one run over all the texts would have counted. Refuses entries of another shape.
  void add(const Importance& other);
  /// The mean squares of a tensor's matrices, [items, cols]: 0 for items that were never seen (surgery::recoded takes
  /// those as without importance). Empty for a tensor there is nothing of. Refuses one of another shape.
  std::vector<float> weights(const std::string& tensor, int64_t items, int64_t cols) const;
};

/// Throws bad_input, naming the tensor, for a file that is not an importance matrix or lies.
Importance read_importance(const std::filesystem::path& path);
/// Experts that were never seen are in the file with a count of 0, and their number in `coterie.imatrix.unseen`.
void write_importance(const Importance& importance, const std::filesystem::path& path);

/// Counts what is multiplied with the matrices of a decoder, as its passes' observer.
class ImportanceCounter final : public lens::ColumnSquares {
 public:
  /// `architecture`: by whose names GGUF calls the tensors (families::gguf_architecture).
  ImportanceCounter(const models::Decoder& decoder, const std::string& architecture);

  Importance& counted() { return counted_; }

 private:
  Importance counted_;
};

}  // namespace coterie::surgery
