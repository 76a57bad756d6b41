#include "families/weights/gradients.h"

#include <deque>
#include <map>
#include <memory>
#include <utility>

#include "base/error.h"
#include "families/names/merged_rows.h"

namespace coterie::families {

namespace {

/// The rows that make up one tensor of a file: those of a parameter, or of several that the file merges.
struct FileTensor {
  tensor::Shape shape;
  std::vector<const float*> rows;
  int64_t cols = 0;
  // Rows that no parameter has as they are; shared, since `rows` point into it.
  std::shared_ptr<std::deque<std::vector<float>>> made = std::make_shared<std::deque<std::vector<float>>>();
};

class Gatherer {
 public:
  Gatherer(const NameTable& names, const checkpoint::TensorSource& source) : names_(names), source_(source) {}

  void add(const models::Parameter& p) {
    const auto [pattern, layer, item] = path_pattern(p.path);
    const NameInFile& name = choose(pattern, layer, item);
    if (name.form == Form::transposed || name.form == Form::mxfp4_pair)
      base::fail(base::ErrorKind::unsupported, source_.where(),
                 "gradients of {} cannot be written as the file has it: {}", p.path,
                 name.form == Form::transposed ? "its matrices are transposed" : "it is quantised");
    if (is_of_heads(name.piece)) return put_heads(expand(name.pattern, layer, -1, item), name.piece, p);
    const bool each = name.pattern.find("{expert}") != std::string::npos;
    const int64_t experts = p.shape.size() == 3 ? p.shape.front() : 1, size = p.count / experts;
    for (int64_t e = 0; e < (each ? experts : 1); ++e) {
      const std::string in_file = expand(name.pattern, layer, e, item);
      const int64_t stacked = each ? 1 : experts;
      const int64_t rows = p.shape.size() == 1 ? p.count : p.shape[p.shape.size() - 2];
      for (int64_t s = 0; s < stacked; ++s)
        put(in_file, name.piece, p, p.gradient + (e + s) * size, rows, size / rows, s, stacked);
    }
  }

  std::map<std::string, FileTensor> tensors;

 private:
  const NameInFile& choose(const std::string& pattern, int64_t layer, int64_t item) const {
    const std::vector<NameInFile>* names = names_.find(pattern);
    base::require(names != nullptr, "gradients", "no name for {}", pattern);
    for (const NameInFile& name : *names)
      if (source_.find(expand(name.pattern, layer, 0, item))) return name;
    base::fail(base::ErrorKind::internal, "gradients", "{} has no tensor for {}", source_.where(), pattern);
  }

  // Keys, with rows and columns exchanged, or values of each head, p.merged_with rows of the other beside them.
  void put_heads(const std::string& name, Piece piece, const models::Parameter& p) {
    const bool keys = piece == Piece::head_keys;
    const int64_t heads = p.shape[0], own = keys ? p.shape[2] : p.shape[1], cols = keys ? p.shape[1] : p.shape[2];
    const int64_t each = own + p.merged_with;
    FileTensor& file = tensors[name];
    file.shape = source_.find(name)->shape, file.cols = cols;
    file.rows.resize(static_cast<size_t>(heads * each));
    for (int64_t h = 0; h < heads; ++h)
      for (int64_t r = 0; r < own; ++r) {
        const float*& row = file.rows[static_cast<size_t>(h * each + (keys ? 0 : p.merged_with) + r)];
        row = p.gradient + (h * own + r) * cols;
        if (!keys) continue;
        std::vector<float>& values = file.made->emplace_back();
        for (int64_t c = 0; c < cols; ++c) values.push_back(p.gradient[(h * cols + c) * own + r]);
        row = values.data();
      }
  }

  // Row r of a piece is row place(r) of the `stack`-th of `stacked` matrices in the file.
  void put(const std::string& name, Piece piece, const models::Parameter& p, const float* values, int64_t rows,
           int64_t cols, int64_t stack, int64_t stacked) {
    FileTensor& file = tensors[name];
    file.shape = source_.find(name)->shape, file.cols = cols;
    const int64_t in_file = tensor::element_count(file.shape) / stacked / cols;
    file.rows.resize(static_cast<size_t>(in_file * stacked));
    for (int64_t r = 0; r < rows; ++r) {
      int64_t place = r;
      if (is_grouped(piece)) place = grouped_row(piece, r, rows, p.parts, p.merged_with);
      if (piece == Piece::second_half) place = rows + r;
      if (piece == Piece::before_back) place = in_file - 2 * rows + r;
      if (piece == Piece::back) place = in_file - rows + r;
      if (piece == Piece::even_rows || piece == Piece::odd_rows) place = 2 * r + (piece == Piece::odd_rows);
      file.rows[static_cast<size_t>(stack * in_file + place)] = values + r * cols;
    }
  }

  const NameTable& names_;
  const checkpoint::TensorSource& source_;
};

}  // namespace

std::vector<checkpoint::TensorToWrite> gradients_to_write(const models::Parameters& parameters, const NameTable& names,
                                                          const checkpoint::TensorSource& source,
                                                          const std::string& prefix) {
  Gatherer gatherer(names, source);
  for (const models::Parameter& p : parameters.list())
    if (p.trained) gatherer.add(p);
  std::vector<checkpoint::TensorToWrite> result;
  for (auto& [name, tensor] : gatherer.tensors)
    result.push_back({prefix + name, tensor::DType::f32, tensor.shape,
                      [rows = std::move(tensor.rows), made = std::move(tensor.made),
                       cols = static_cast<size_t>(tensor.cols)](const auto& write) {
                        for (const float* row : rows) write(std::as_bytes(std::span(row, cols)));
                      }});
  return result;
}

}  // namespace coterie::families
