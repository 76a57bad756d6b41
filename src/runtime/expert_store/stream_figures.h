#pragma once

#include <cstdint>
#include <string>

namespace coterie::runtime {

/// What reading experts has cost so far.
struct StreamFigures {
  struct Kind {
    int64_t tokens = 0, hits = 0, misses = 0;  // of experts that layers asked for
    int64_t bytes = 0;                         // that came from the disk
    int64_t ahead = 0, ahead_used = 0;         // experts that a layer was expected to ask for; of them, that it did
    int64_t ahead_bytes = 0;                   // of `bytes`, those that came before somebody asked
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
  // Whether experts are read ahead of the layer that wants them: "off", "on", and where that is decided by its time
  // "on, while it pays" or "off, since it does not pay" or, before that is known, "on, not compared yet".
  std::string look_ahead = "off";
  double look_ahead_gain = 0;  // decode speed with it over that without, by the last comparison; 0: not known

  /// Of the rate at the start; 0 where that is not known, or nothing was read.
  double share() const { return disk_rate > 0 ? figures.bytes_per_second() / disk_rate : 0; }
};

}  // namespace coterie::runtime
