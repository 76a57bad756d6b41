#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>

// Every failure that data, a user or the machine can cause is an Error: it says where, what was expected, what was
// found and what to do. The library throws; only cli and serve turn an Error into words on a screen.
namespace coterie::base {

enum class ErrorKind {
  bad_input,      // a file, an option or a request that is wrong: exit code 2
  unsupported,    // well formed, but nothing here computes it: exit code 2
  not_found,      // a file, a tensor, a key: exit code 2
  out_of_memory,  // would not fit; said before anything was allocated: exit code 2
  io,             // the system refused to read or write: exit code 1
  interrupted,    // the user asked to stop: exit code 130
  internal,       // a promise between two rooms was broken; a bug: exit code 70
};

class Error : public std::runtime_error {
 public:
  /// `where` is a file, "file: tensor", "--option" or the name of an op; `hint` may be empty.
  Error(ErrorKind kind, std::string where, std::string message, std::string hint = {});

  ErrorKind kind() const { return kind_; }
  const std::string& where() const { return where_; }
  const std::string& message() const { return message_; }
  const std::string& hint() const { return hint_; }

  /// The same error with `outer` put before where: "model.gguf: blk.0.attn_q.weight".
  Error within(std::string_view outer) const;

 private:
  ErrorKind kind_;
  std::string where_, message_, hint_;
};

/// The process exit code an error of this kind stands for.
int exit_code(ErrorKind kind);

/// fail(ErrorKind::bad_input, path, "the header ends at byte {}, the file at {}", a, b);
template <typename... Args>
[[noreturn]] void fail(ErrorKind kind, std::string_view where, fmt::format_string<Args...> message, Args&&... args) {
  throw Error(kind, std::string(where), fmt::format(message, std::forward<Args>(args)...));
}

/// For promises between rooms (shapes handed to an op, states of an object): stays on in release builds.
template <typename... Args>
void require(bool condition, std::string_view where, fmt::format_string<Args...> message, Args&&... args) {
  if (!condition) [[unlikely]]
    throw Error(ErrorKind::internal, std::string(where), fmt::format(message, std::forward<Args>(args)...));
}

}  // namespace coterie::base
