#pragma once

#include <cstdint>
#include <string>

namespace coterie::runtime {

/// What reading experts has cost so far.
struct StreamFigures {
  struct Kind {
    int64_t tokens = 0, hits = 0, misses = 0;  // of experts that layers asked for
    int64_t bytes = 0;                         // that came from the disk
    double reading = 0;                        // seconds in which something was asked of the disk
    double stalled = 0;                        // seconds in which a layer could only wait for it

    double hit_share() const {
      return hits + misses == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(hits + misses);
    }
    double bytes_per_token() const {
      return tokens == 0 ? 0 : static_cast<double>(bytes) / static_cast<double>(tokens);
    }
  };
  Kind decode, prompt;

  double bytes_per_second() const {
    const double seconds = decode.reading + prompt.reading;
    return seconds > 0 ? static_cast<double>(decode.bytes + prompt.bytes) / seconds : 0;
  }
};

/// The same with how it is read: what is told of a model whose experts are read from the disk.
struct StreamReport {
  StreamFigures figures;
  int64_t slots = 0, experts = 0;  // how many of the experts fit into memory
  int64_t slot_bytes = 0;          // of all slots
  double disk_rate = 0;            // bytes a second at the start (ModelBytes::disk_rate); 0: not known
  std::string reader;              // "threads", "uring"
  bool direct = false;             // past the system's page cache

  /// Of the rate at the start; 0 where that is not known, or nothing was read.
  double share() const { return disk_rate > 0 ? figures.bytes_per_second() / disk_rate : 0; }
};

}  // namespace coterie::runtime
