#pragma once

#include <cstdlib>
#include <string>

namespace coterie {

/// COTERIE_ISA, set for as long as this lives, then as it was.
class WithIsa {
 public:
  explicit WithIsa(const char* value) {
    if (const char* old = std::getenv("COTERIE_ISA")) old_ = old, had_ = true;
    ::setenv("COTERIE_ISA", value, 1);
  }
  ~WithIsa() { had_ ? ::setenv("COTERIE_ISA", old_.c_str(), 1) : ::unsetenv("COTERIE_ISA"); }
  WithIsa(const WithIsa&) = delete;
  WithIsa& operator=(const WithIsa&) = delete;

 private:
  std::string old_;
  bool had_ = false;
};

}  // namespace coterie
