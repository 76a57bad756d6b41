#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/view.h"

namespace coterie::checkpoint {

/// One tensor of a checkpoint: where its bytes are and how to read them. `shape` is in the order of PyTorch (GGUF's
/// dims, which it stores reversed, in this order), so [rows, cols] of a matrix, [E, rows, cols] of stacked experts.
struct TensorInfo {
  std::string name;
  tensor::DType dtype;
  tensor::Shape shape;
  std::span<const std::byte> bytes;  // in the mapping; null data when the source has no
                                     // weights (a config alone), and before load() where that makes them
  const int32_t* columns = nullptr;  // as tensor::Weight::columns; lasts as long as the source
};

/// One value of GGUF metadata.
using MetaValue = std::variant<bool, int64_t, uint64_t, double, std::string, std::vector<bool>, std::vector<int64_t>,
                               std::vector<uint64_t>, std::vector<double>, std::vector<std::string>>;
using Metadata = std::map<std::string, MetaValue, std::less<>>;

enum class Format { safetensors, gguf, memory };

/// A place in a file, for whoever reads it without the mapping.
struct FilePlace {
  std::filesystem::path file;
  int64_t offset = 0;  // bytes from its beginning
};

/// Where weights come from. Opening maps and checks the headers; no weight is read.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual Format format() const = 0;
  /// What to call it in messages: the path given.
  virtual std::string where() const = 0;
  /// All tensors, in the order of the files.
  virtual std::span<const TensorInfo> tensors() const = 0;
  /// nullptr when absent.
  virtual const TensorInfo* find(std::string_view name) const = 0;
  /// A tensor's bytes, which are put together now where they lie in no file as they are read (quantized_source.h); they
  /// last as long as the source.
  virtual std::span<const std::byte> load(const TensorInfo& tensor) const { return tensor.bytes; }
  /// The tensors as the files hold them, where these are not.
  virtual const TensorSource& stored() const { return *this; }
  /// GGUF's key-values, or safetensors' __metadata__ (strings).
  virtual const Metadata& metadata() const = 0;
  /// Bytes on disk, all files.
  virtual int64_t file_bytes() const = 0;
  /// The file (shard) that holds the tensor: for error messages.
  virtual std::string file_of(const TensorInfo& tensor) const {
    (void)tensor;
    return where();
  }
  /// Where bytes lie that a tensor shows, or a part of them (one expert of a stack); nothing where they lie in no file
  /// as they are.
  virtual std::optional<FilePlace> place_of(std::span<const std::byte> bytes) const {
    (void)bytes;
    return {};
  }
};

/// model.safetensors, or model.safetensors.index.json with its shards, or one *.safetensors file. Every offset, size,
/// dtype and name is checked against the file (overlaps and holes too) before anything is handed out.
std::unique_ptr<TensorSource> open_safetensors(const std::filesystem::path& path);
/// GGUF v2/v3, single, or the first of NAME-00001-of-0000N.gguf.
std::unique_ptr<TensorSource> open_gguf(const std::filesystem::path& path);

/// What a user names on the command line.
struct ModelPath {
  enum class Kind { safetensors_folder, gguf_file, config_only };
  Kind kind;
  std::filesystem::path path;    // the folder, the .gguf, or the config.json
  std::filesystem::path config;  // config.json where there is one
};
/// A folder with config.json (with or without weights), a .gguf, or a config.json. Throws with what was looked for.
ModelPath resolve_model(const std::filesystem::path& path);

/// Opens the weights of a resolved model; nullptr for config_only. Those that config.json says to be quantised are put
/// together (quantized_source.h).
std::unique_ptr<TensorSource> open_source(const ModelPath& model);

}  // namespace coterie::checkpoint
