#include "base/utf8.h"

#include "base/error.h"

namespace coterie::base {

int utf8_length(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  return lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
}

size_t valid_utf8_bytes(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t at = 0; at < text.size();) {
    const auto length = static_cast<size_t>(utf8_length(byte(at)));
    if (length == 0 || at + length > text.size()) return at;
    for (size_t i = at + 1; i < at + length; ++i)
      if ((byte(i) & 0xc0) != 0x80) return at;
    if (length > 1) {
      const unsigned char lead = byte(at), second = byte(at + 1);
      const bool overlong = (lead == 0xe0 && second < 0xa0) || (lead == 0xf0 && second < 0x90);
      const bool surrogate = lead == 0xed && second > 0x9f, too_high = lead == 0xf4 && second > 0x8f;
      if (overlong || surrogate || too_high) return at;
    }
    at += length;
  }
  return text.size();
}

void require_utf8(std::string_view text, std::string_view where, std::string_view what) {
  const size_t good = valid_utf8_bytes(text);
  if (good == text.size()) return;
  throw Error(ErrorKind::bad_input, std::string(where),
              fmt::format("{} is not UTF-8: bad byte 0x{:02x} at offset {}", what,
                          static_cast<unsigned char>(text[good]), good),
              "convert it to UTF-8 (iconv -f latin1 -t utf-8, for instance)");
}

}  // namespace coterie::base
