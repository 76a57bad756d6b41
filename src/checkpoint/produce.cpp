#include "checkpoint/produce.h"

#include "checkpoint/parsed_file.h"

namespace coterie::checkpoint {

void produce(const TensorToWrite& tensor, base::AtomicFile& file, std::string_view where) {
  const std::string place = fmt::format("{}: {}", where, shown(tensor.name));
  const int64_t expected = checked_bytes(tensor.dtype, tensor.shape, place);
  int64_t written = 0;
  tensor.produce([&](std::span<const std::byte> piece) {
    written += static_cast<int64_t>(piece.size());
    base::require(written <= expected, place, "more than the {} bytes of its shape were produced", expected);
    file.write(piece);
  });
  base::require(written == expected, place, "{} bytes were produced, its shape takes {}", written, expected);
}

}  // namespace coterie::checkpoint
