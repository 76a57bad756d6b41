#include "fuzz/parsed_file_check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return coterie::check_parser(coterie::checkpoint::parse_safetensors, data, size);
}
