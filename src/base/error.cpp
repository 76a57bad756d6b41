#include "base/error.h"

namespace coterie::base {

namespace {
std::string describe(const std::string& where, const std::string& message, const std::string& hint) {
  std::string text = where.empty() ? message : where + ": " + message;
  if (!hint.empty()) text += "\n  hint: " + hint;
  return text;
}
}  // namespace

Error::Error(ErrorKind kind, std::string where, std::string message, std::string hint)
    : std::runtime_error(describe(where, message, hint)),
      kind_(kind),
      where_(std::move(where)),
      message_(std::move(message)),
      hint_(std::move(hint)) {}

Error Error::within(std::string_view outer) const {
  std::string place(outer);
  if (!where_.empty()) place += ": " + where_;
  return Error(kind_, std::move(place), message_, hint_);
}

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::bad_input:
    case ErrorKind::unsupported:
    case ErrorKind::not_found:
    case ErrorKind::out_of_memory: return 2;
    case ErrorKind::io: return 1;
    case ErrorKind::interrupted: return 130;
    case ErrorKind::internal: return 70;
  }
  return 70;
}

}  // namespace coterie::base
