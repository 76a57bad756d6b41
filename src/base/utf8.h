#pragma once

#include <cstddef>
#include <string_view>

namespace coterie::base {

/// How many bytes of the text are valid UTF-8 before the first that is not (RFC 3629: no overlong forms, surrogates or
/// values above U+10FFFF); text.size() when all are.
size_t valid_utf8_bytes(std::string_view text);

/// The bytes of the character that this lead byte begins, 1 to 4; 0 when it begins none.
int utf8_length(unsigned char lead);

/// Throws bad_input when the text is not UTF-8: "`what` is not UTF-8: bad byte 0xe9 at offset 3". `where`: the file or
/// the option it came from.
void require_utf8(std::string_view text, std::string_view where, std::string_view what);

}  // namespace coterie::base
