#include "runtime/library/translate.h"

#include <filesystem>
#include <new>
#include <string>

#include "base/error.h"
#include "base/json.h"

namespace coterie {

struct Error::Parts {
  Kind kind;
  std::string where, message, hint, what;
};

Error::Error(std::shared_ptr<const Parts> parts) : std::runtime_error(parts->what), parts_(std::move(parts)) {}
Error::Kind Error::kind() const noexcept { return parts_->kind; }
const std::string& Error::where() const noexcept { return parts_->where; }
const std::string& Error::message() const noexcept { return parts_->message; }
const std::string& Error::hint() const noexcept { return parts_->hint; }

struct ErrorMaker {
  static Error make(const base::Error& error);
};

namespace {

Error::Kind kind_of(base::ErrorKind kind) {
  switch (kind) {
    case base::ErrorKind::bad_input: return Error::Kind::bad_input;
    case base::ErrorKind::unsupported: return Error::Kind::unsupported;
    case base::ErrorKind::not_found: return Error::Kind::not_found;
    case base::ErrorKind::out_of_memory: return Error::Kind::out_of_memory;
    case base::ErrorKind::io: return Error::Kind::io;
    case base::ErrorKind::interrupted: return Error::Kind::interrupted;
    case base::ErrorKind::internal: return Error::Kind::internal;
  }
  return Error::Kind::internal;
}

}  // namespace

Error ErrorMaker::make(const base::Error& error) {
  return Error(std::make_shared<const Error::Parts>(
      Error::Parts{kind_of(error.kind()), error.where(), error.message(), error.hint(), error.what()}));
}

namespace library {

Error public_error() {
  using base::ErrorKind;
  constexpr const char* kBug = "this is a bug: please report it";
  try {
    throw;
  } catch (const Error& error) {
    return error;
  } catch (const base::Error& error) {
    return ErrorMaker::make(error);
  } catch (const std::bad_alloc&) {
    return ErrorMaker::make({ErrorKind::out_of_memory, "coterie", "out of memory",
                             "a smaller context, fewer sessions or a smaller model need less"});
  } catch (const std::filesystem::filesystem_error& error) {
    return ErrorMaker::make({ErrorKind::io, error.path1().string(), error.code().message()});
  } catch (const base::Json::exception& error) {
    return ErrorMaker::make({ErrorKind::bad_input, "JSON", error.what()});
  } catch (const std::exception& error) {
    return ErrorMaker::make({ErrorKind::internal, "coterie", error.what(), kBug});
  } catch (...) {
    return ErrorMaker::make({ErrorKind::internal, "coterie", "something that is not an exception was thrown", kBug});
  }
}

std::exception_ptr translated_error(const std::exception_ptr& error) noexcept {
  if (!error) return nullptr;
  try {
    translated([&] { std::rethrow_exception(error); });
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

}  // namespace library
}  // namespace coterie
