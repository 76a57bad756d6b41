#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "fuzz/require.h"

namespace coterie {
namespace {

/// Asks for the value in every way; a wrong type must be an Error.
void read_all_ways(base::JsonReader& reader, const std::string& key) {
  const auto attempt = [](auto&& body) {
    try {
      body();
    } catch (const base::Error& error) {
      FUZZ_REQUIRE(error.kind() == base::ErrorKind::bad_input || error.kind() == base::ErrorKind::not_found);
    }
  };
  attempt([&] { reader.integer(key); });
  attempt([&] { reader.number(key); });
  attempt([&] { reader.boolean(key); });
  attempt([&] { reader.string(key); });
  attempt([&] { reader.integers(key); });
  attempt([&] { reader.numbers(key); });
  attempt([&] { reader.strings(key); });
  attempt([&] { reader.object(key); });
}

}  // namespace
}  // namespace coterie

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace coterie;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  base::Json json;
  try {
    json = base::parse_json(text, "file");
  } catch (const base::Error& error) {
    FUZZ_REQUIRE(error.kind() == base::ErrorKind::bad_input && error.where() == "file");
    return 0;
  }
  FUZZ_REQUIRE(base::parse_json(json.dump(), "copy") == json);
  try {
    FUZZ_REQUIRE(base::parse_json(text, "file", base::DuplicateKeys::refuse) == json);
  } catch (const base::Error& error) {
    FUZZ_REQUIRE(error.message().find("twice") != std::string::npos);
  }
  if (json.is_object()) {
    try {
      base::JsonReader reader(json, "file");
      for (const auto& [key, value] : json.items()) read_all_ways(reader, key);
      FUZZ_REQUIRE(reader.unread().empty());
    } catch (const base::Error& error) {  // {"__float__": "NaN"} is a number as configs of transformers write it
      FUZZ_REQUIRE(error.kind() == base::ErrorKind::bad_input && json.contains("__float__"));
    }
  }
  return 0;
}
