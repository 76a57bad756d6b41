// What ranks send each other while a prompt is read by --split experts, as a program of MPI alone: the pattern of
// src/runtime/ranks without the arithmetic. Simulated networks of many ranks run it (SimGrid's SMPI), and it measures
// what MPI itself takes between two ranks, beside which Coterie's own share stands. Not part of any build:
//
//   mpicxx -O2 benchmarks/ranks_exchange.cpp -o exchange && mpirun -n 2 ./exchange pingpong 64
//   smpicxx -O2 benchmarks/ranks_exchange.cpp -o exchange && benchmarks/ranks_simulated.py ./exchange
//
//   exchange pingpong BYTES             median microseconds of one way, of 1001
//   exchange prompt SECONDS LATENCY RATE  one layer of a prompt of 512 tokens a rank: SECONDS of one rank's arithmetic
//                                       in it; prints what it took and what the formula says
#include <mpi.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

// Qwen3-30B-A3B: width, experts a token; bytes of a quantised row (384 for 256 values), of keys and values in f16.
constexpr double kTokens = 512, kWidth = 2048, kSlots = 8, kRow = kWidth * 384 / 256, kOutput = kWidth * 4;
constexpr double kKeys = 2 * 4 * 128 * 2;
constexpr int kGroups = 8;              // pieces in which outputs are sent
constexpr double kBeforeExperts = 0.4;  // of the arithmetic: projections and attention

void compute(double seconds) {
#ifdef SMPI_H
  smpi_execute_flops(seconds * 1e9);  // of hosts that do 1 Gflop/s
#else
  for (const double end = MPI_Wtime() + seconds; MPI_Wtime() < end;) {
  }
#endif
}

/// For as long as the program runs. Simulated ranks are one process, and what they receive is never read.
char* room_for(size_t bytes) {
#ifdef SMPI_H
  return static_cast<char*>(SMPI_SHARED_MALLOC(bytes));
#else
  return new char[bytes];
#endif
}

struct Exchange {
  int rank = 0, size = 1;
  char* out = nullptr;
  std::vector<MPI_Request> sent;
  struct Expected {
    int from, tag;
    MPI_Request request;
  };
  std::vector<Expected> expected;

  void send_all(double bytes, int tag) {
    for (int step = 1; step < size; ++step) {
      sent.push_back(MPI_REQUEST_NULL);
      MPI_Isend(out, static_cast<int>(bytes), MPI_BYTE, (rank + step) % size, tag, MPI_COMM_WORLD, &sent.back());
    }
  }
  // All receives stand from the beginning, as if whatever arrives is taken at once.
  void expect_all(double bytes, int tag) {
    for (int step = 1; step < size; ++step) {
      const int from = (rank + size - step) % size;
      char* const buffer = room_for(static_cast<size_t>(bytes) + 1);
      expected.push_back({from, tag, MPI_REQUEST_NULL});
      MPI_Irecv(buffer, static_cast<int>(bytes), MPI_BYTE, from, tag, MPI_COMM_WORLD, &expected.back().request);
    }
  }
  /// Waits for what the ranks below `end` send by this tag.
  void wait_for(int tag, int end) {
    for (Expected& one : expected)
      if (one.tag == tag && one.from < end) MPI_Wait(&one.request, MPI_STATUS_IGNORE);
  }
};

void prompt(double seconds, double latency, double rate) {
  Exchange ranks;
  MPI_Comm_rank(MPI_COMM_WORLD, &ranks.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks.size);
  const double others = ranks.size - 1;
  // To each other rank: the rows of which some expert is there, and back a row for each of these experts.
  const double met = 1 - std::pow(1 - 1.0 / ranks.size, kSlots);
  const double keys = kTokens * kKeys, rows = kTokens * met * kRow + 12 * kTokens * kSlots / ranks.size;
  const double outputs = kTokens * kSlots / ranks.size * kOutput;
  ranks.out = room_for(static_cast<size_t>(std::max({keys, rows, outputs})) + 1);

  ranks.expect_all(keys, 0), ranks.expect_all(rows, 1);
  for (int group = 0; group < kGroups; ++group) ranks.expect_all(outputs / kGroups, 2 + group);
  MPI_Barrier(MPI_COMM_WORLD);
  const double begin = MPI_Wtime();
  compute(seconds * kBeforeExperts / 2);
  ranks.send_all(keys, 0);
  ranks.wait_for(0, ranks.rank);
  compute(seconds * kBeforeExperts / 2);
  ranks.send_all(rows, 1);
  ranks.wait_for(1, ranks.size);
  for (int group = 0; group < kGroups; ++group) {
    compute(seconds * (1 - kBeforeExperts) / kGroups);
    ranks.send_all(outputs / kGroups, 2 + group);
  }
  for (int group = 0; group < kGroups; ++group) ranks.wait_for(2 + group, ranks.size);
  const double own = MPI_Wtime() - begin;
  ranks.wait_for(0, ranks.size);
  MPI_Waitall(static_cast<int>(ranks.sent.size()), ranks.sent.data(), MPI_STATUSES_IGNORE);
  double took = 0;
  MPI_Reduce(&own, &took, 1, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);

  // Keys and rows are waited for; of the outputs, what the arithmetic of the later groups does not hide.
  const double experts = seconds * (1 - kBeforeExperts), last = outputs / kGroups * others / rate;
  const double hidden = std::max(last, outputs * others / rate - experts * (kGroups - 1) / kGroups);
  const double foretold = seconds + 3 * latency + (keys + rows) * others / rate + hidden;
  if (ranks.rank == 0)
    std::printf("%d %.6f %.6f %.3f %.0f\n", ranks.size, took, foretold, took / foretold,
                (keys + rows + outputs) * others);
}

void pingpong(int bytes) {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  std::vector<char> data(static_cast<size_t>(bytes));
  std::vector<double> ways;
  for (int i = 0; i < 1001; ++i) {
    const double begin = MPI_Wtime();
    if (rank == 0) MPI_Send(data.data(), bytes, MPI_BYTE, 1, 0, MPI_COMM_WORLD);
    if (rank < 2) MPI_Recv(data.data(), bytes, MPI_BYTE, 1 - rank, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    if (rank == 1) MPI_Send(data.data(), bytes, MPI_BYTE, 0, 0, MPI_COMM_WORLD);
    ways.push_back((MPI_Wtime() - begin) / 2);
  }
  std::nth_element(ways.begin(), ways.begin() + 500, ways.end());
  if (rank == 0) std::printf("%.2f us\n", ways[500] * 1e6);
}

}  // namespace

int main(int argc, char** argv) {
  MPI_Init(&argc, &argv);
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "pingpong" && argc == 3)
    pingpong(std::atoi(argv[2]));
  else if (what == "prompt" && argc == 5)
    prompt(std::atof(argv[2]), std::atof(argv[3]), std::atof(argv[4]));
  else
    std::fprintf(stderr, "exchange pingpong BYTES | prompt SECONDS LATENCY RATE\n");
  MPI_Finalize();
  return 0;
}
