# Run by coterie_embed when the file has changed.
file(READ ${FROM} text)
file(CONFIGURE OUTPUT ${TO} @ONLY CONTENT [[#include "@ROOM@/@FUNCTION@.h"

std::string_view coterie::@ROOM@::@FUNCTION@() {
  return R"embedded(@text@)embedded";
}
]])
