#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <vector>

#include "base/rng.h"

// Stands in for libFuzzer where there is none: runs the seeds of a folder and a fixed number of mutations of them, the
// same ones each time. usage: smoke FOLDER MUTATIONS

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using coterie::base::Rng;

// Lengths and offsets are what lies in these formats.
constexpr uint64_t kNumbers[] = {0,
                                 1,
                                 7,
                                 8,
                                 31,
                                 32,
                                 255,
                                 256,
                                 0x7fffffff,
                                 0x80000000,
                                 0xffffffff,
                                 uint64_t{1} << 32,
                                 uint64_t{1} << 62,
                                 ~uint64_t{0} >> 1,
                                 uint64_t{1} << 63,
                                 ~uint64_t{0}};
constexpr const char* kWords[] = {
    "\"",    "{",   "}",        "[",    "]",       ":",         ",",       "-1",   "9223372036854775808",
    "1e999", "NaN", "Infinity", "null", "\\u0000", "\"dtype\"", "\"F32\"", "GGUF", "\xff"};

size_t position(Rng& rng, const std::string& text) {
  return text.empty() ? 0 : rng.below(static_cast<uint32_t>(text.size()));
}

void mutate(Rng& rng, std::string& text, const std::vector<std::string>& seeds) {
  const size_t at = position(rng, text);
  switch (rng.below(8)) {
    case 0:
      if (!text.empty()) text[at] = static_cast<char>(text[at] ^ (1 << rng.below(8)));
      break;
    case 1:
      if (!text.empty()) text[at] = static_cast<char>(rng.bits());
      break;
    case 2: {  // a number of 4 or 8 bytes
      const uint64_t number = kNumbers[rng.below(std::size(kNumbers))];
      const size_t size = std::min(rng.below(2) ? size_t{4} : size_t{8}, text.size() - at);
      text.replace(at, size, reinterpret_cast<const char*>(&number), size);
      break;
    }
    case 3: text.resize(at); break;
    case 4: text.erase(at, rng.below(16)); break;
    case 5: text.insert(at, text.substr(position(rng, text), rng.below(32))); break;
    case 6: text.insert(at, kWords[rng.below(std::size(kWords))]); break;
    case 7: {
      const std::string& other = seeds[rng.below(static_cast<uint32_t>(seeds.size()))];
      text = text.substr(0, at) + other.substr(position(rng, other));
      break;
    }
  }
}

void run(const std::string& text) {
  // A heap copy of exactly this size, so that a sanitizer sees a read past the end.
  const std::vector<uint8_t> bytes(text.begin(), text.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER MUTATIONS\n", argv[0]);
    return 2;
  }
  std::set<std::filesystem::path> files;
  for (const auto& file : std::filesystem::directory_iterator(argv[1])) files.insert(file.path());
  std::vector<std::string> seeds;
  for (const auto& path : files) {
    std::ifstream file(path, std::ios::binary);
    seeds.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    run(seeds.back());
  }
  if (seeds.empty()) {
    std::fprintf(stderr, "no seeds in %s\n", argv[1]);
    return 1;
  }
  Rng rng(1);
  const int count = std::atoi(argv[2]);
  for (int i = 0; i < count; ++i) {
    std::string text = seeds[rng.below(static_cast<uint32_t>(seeds.size()))];
    for (uint32_t step = 0, steps = 1 + rng.below(4); step < steps; ++step) mutate(rng, text, seeds);
    run(text);
  }
  std::printf("%zu seeds and %d mutations\n", seeds.size(), count);
  return 0;
}
