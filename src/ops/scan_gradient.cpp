#include <algorithm>
#include <limits>
#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"
#include "ops/rows.h"

// The backward of both scans. With e = exp(dt a), going from the last token to the first:
//   dh += c dy;  dc = Σ_ch h dy;  dd += dy x;  dx = d dy + Σ_s dh dt b;  db = Σ_ch dh dt x
//   ddt = Σ_s dh (a e h' + b x);  da += dh dt e h';  dh = e dh          (h' the state before the token)
// States are not kept: those before each block of tokens are computed first, then, block by block from the last, the
// states within. Mamba-2's is the same with one a, d and dt for the channels of a head, whose gradients are summed.
namespace coterie::ops {

namespace {

constexpr int64_t kTokens = 32;    // of a block
constexpr int64_t kChannels = 64;  // of a task, at most

/// The loss's sums over the channels of a piece. Eight chains, so that they fill vectors.
float dot(const float* a, const float* b, int64_t n) {
  float sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t j = 0; j < 8; ++j) sum[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) sum[i % 8] += a[i] * b[i];
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

float total(const float* a, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i];
  return sum;
}

/// Some channels of one sequence. Rows are of the piece's channels; a, h and their gradients [S, n].
struct Piece {
  int64_t rows = 0, n = 0, states = 0;
  ConstMatrix x;   // [rows, n]
  ConstMatrix dt;  // [rows, n], or [rows, 1] when `shared`
  bool shared = false;
  ConstMatrix b, c;  // [rows, S]
  const float* a;    // [S, n], or one value when shared
  int64_t a_stride = 0;
  const float* d;       // [n], or one value when shared
  const float* before;  // [S, n] state before the first token
  int64_t before_stride = 0;
  Matrix dy, dx, ddt;   // ddt as dt
  Matrix db, dc;        // [rows, S] of this piece alone
  float *da, *dd, *dh;  // [S, n], [n]; dh: in, by the state after the last token; out, before the first
};

class ScanBack {
 public:
  ScanBack(const Context& context, const Piece& piece, float* memory) : kernels_(context.kernels.vector), p_(piece) {
    size_ = p_.states * p_.n;
    const auto take = [&memory](int64_t floats) {
      float* const taken = memory;
      memory += floats;
      return taken;
    };
    blocks_ = take((p_.rows + kTokens - 1) / kTokens * size_);
    states_ = take((kTokens + 1) * size_);
    decay_ = take(kTokens * size_);
    row_dt_ = take(p_.n), row_ddt_ = take(p_.n), row_ = take(p_.n);
  }
  static int64_t floats(int64_t rows, int64_t n, int64_t states) {
    return ((rows + kTokens - 1) / kTokens + 2 * kTokens + 1) * states * n + 3 * n;
  }

  void run() {
    const int64_t count = (p_.rows + kTokens - 1) / kTokens;
    float* const h = states_;
    for (int64_t s = 0; s < p_.states; ++s) std::copy_n(p_.before + s * p_.before_stride, p_.n, h + s * p_.n);
    for (int64_t block = 0; block < count; ++block) {
      std::copy_n(h, size_, blocks_ + block * size_);
      if (block + 1 == count) break;
      for (int64_t t = block * kTokens; t < (block + 1) * kTokens; ++t) step(t, h, h, decay_);
    }
    for (int64_t block = count - 1; block >= 0; --block) {
      const int64_t begin = block * kTokens, end = std::min(begin + kTokens, p_.rows);
      std::copy_n(blocks_ + block * size_, size_, states_);
      for (int64_t t = begin; t < end; ++t)
        step(t, states_ + (t - begin) * size_, states_ + (t - begin + 1) * size_, decay_ + (t - begin) * size_);
      for (int64_t t = end - 1; t >= begin; --t)
        back(t, states_ + (t - begin) * size_, states_ + (t - begin + 1) * size_, decay_ + (t - begin) * size_);
    }
  }

 private:
  void load_dt(int64_t t) {
    if (p_.shared)
      std::fill_n(row_dt_, p_.n, p_.dt.row(t)[0]);
    else
      std::copy_n(p_.dt.row(t), p_.n, row_dt_);
  }

  // The state after token t from that before it, and its decay.
  void step(int64_t t, const float* before, float* after, float* decay) {
    load_dt(t);
    const float* const x = p_.x.row(t);
    for (int64_t s = 0; s < p_.states; ++s) {
      float* const e = decay + s * p_.n;
      if (p_.shared) {
        float one = row_dt_[0] * p_.a[0];
        kernels_.exp(&one, &one, 1);
        std::fill_n(e, p_.n, one);
      } else {
        const float* const a = p_.a + s * p_.a_stride;
        for (int64_t i = 0; i < p_.n; ++i) e[i] = row_dt_[i] * a[i];
        kernels_.exp(e, e, p_.n);
      }
      const float b = p_.b.row(t)[s];
      const float* const h = before + s * p_.n;
      float* const out = after + s * p_.n;
      for (int64_t i = 0; i < p_.n; ++i) out[i] = e[i] * h[i] + row_dt_[i] * b * x[i];
    }
  }

  void back(int64_t t, const float* before, const float* after, const float* decay) {
    load_dt(t);
    const float *const x = p_.x.row(t), *const dt = row_dt_;
    float *const dy = p_.dy.row(t), *const dx = p_.dx.row(t);
    for (int64_t i = 0; i < p_.n; ++i) {
      p_.dd[i] += dy[i] * x[i];
      dx[i] += p_.d[p_.shared ? 0 : i] * dy[i];
      row_ddt_[i] = 0;
    }
    for (int64_t s = 0; s < p_.states; ++s) {
      const float b = p_.b.row(t)[s], c = p_.c.row(t)[s];
      const float *const h = before + s * p_.n, *const e = decay + s * p_.n;
      const float* const a = p_.a + s * p_.a_stride;
      float *const dh = p_.dh + s * p_.n, *const da = p_.da + s * p_.n;
      p_.dc.row(t)[s] = dot(after + s * p_.n, dy, p_.n);
      for (int64_t i = 0; i < p_.n; ++i) {
        const float g = dh[i] + c * dy[i], kept = e[i] * h[i];
        row_[i] = g * dt[i];
        dx[i] += row_[i] * b;
        row_ddt_[i] += g * (a[p_.shared ? 0 : i] * kept + b * x[i]);
        da[i] += row_[i] * kept;
        dh[i] = e[i] * g;
      }
      p_.db.row(t)[s] = dot(row_, x, p_.n);
    }
    if (p_.shared)
      p_.ddt.row(t)[0] += total(row_ddt_, p_.n);
    else
      for (int64_t i = 0; i < p_.n; ++i) p_.ddt.row(t)[i] += row_ddt_[i];
    std::fill_n(dy, p_.n, 0.0f);
  }

  const kernels::VectorKernels& kernels_;
  Piece p_;
  int64_t size_;
  float *blocks_, *states_, *decay_, *row_dt_, *row_ddt_, *row_;
};

/// What both scans record.
struct Scan {
  int64_t states = 0, width = 0;  // width: channels of a head, or 0
  const float *a = nullptr, *d = nullptr;
  ConstMatrix x, dt, saved_x, saved_dt;
  ScanInputs inputs, saved_inputs;
  std::vector<Recurrence> sequences;
  std::vector<const float*> before;
  Matrix y;

  bool heads() const { return width > 0; }
};

Matrix columns(Matrix m, int64_t begin, int64_t end, const Recurrence& s) {
  return m.row_range(s.first_row, s.first_row + s.rows).col_range(begin, end);
}
ConstMatrix columns(ConstMatrix m, int64_t begin, int64_t end, const Recurrence& s) {
  return m.row_range(s.first_row, s.first_row + s.rows).col_range(begin, end);
}

void scan_backward(const Scan& scan, Reverse& back) {
  Context& context = back.context();
  const int64_t channels = scan.x.cols, states = scan.states, groups = scan.inputs.groups;
  const int64_t unit = scan.heads() ? scan.width : channels / groups;  // a piece does not reach beyond
  const int64_t size = scan.heads() ? scan.width : std::min(kChannels, unit);
  const int64_t in_unit = (unit + size - 1) / size, pieces = channels / unit * in_unit;
  const Matrix dx = back.gradient(scan.x), ddt = back.gradient(scan.dt), dy = back.gradient(scan.y);
  const auto count = static_cast<int64_t>(scan.sequences.size());
  int64_t longest = 0;
  for (const Recurrence& s : scan.sequences) longest = std::max(longest, s.rows);

  // Each task's own sums: by a and d for each sequence, by b and c for each piece; added up in order afterwards.
  const Matrix da = context.arena.matrix(count * states, channels), dd = context.arena.matrix(count, channels);
  const Matrix db = context.arena.matrix(pieces * scan.x.rows, states),
               dc = context.arena.matrix(pieces * scan.x.rows, states);
  clear(context, da), clear(context, dd), clear(context, db), clear(context, dc);
  std::vector<float*> dstates;
  for (const Recurrence& s : scan.sequences) dstates.push_back(back.outside(s.state, states * channels));
  const int64_t scratch = ScanBack::floats(longest, size, states) + 3 * states * size;
  float* const memory = context.arena.take<float>(context.pool.threads() * scratch);
  context.pool.each(count * pieces, [&](int64_t task, int worker) {
    const auto i = static_cast<size_t>(task / pieces);
    const Recurrence& s = scan.sequences[i];
    const int64_t piece = task % pieces, first = piece / in_unit * unit;
    const int64_t begin = first + piece % in_unit * size, end = std::min(begin + size, first + unit), n = end - begin;
    if (s.rows == 0) return;
    const int64_t head = scan.heads() ? begin / scan.width : 0;
    const int64_t column = begin / (channels / groups) * scan.inputs.group_stride;
    Piece p;
    p.rows = s.rows, p.n = n, p.states = states, p.shared = scan.heads();
    p.x = columns(scan.saved_x, begin, end, s), p.dx = columns(dx, begin, end, s), p.dy = columns(dy, begin, end, s);
    const int64_t dt_begin = scan.heads() ? head : begin, dt_end = scan.heads() ? head + 1 : end;
    p.dt = columns(scan.saved_dt, dt_begin, dt_end, s), p.ddt = columns(ddt, dt_begin, dt_end, s);
    p.b = columns(scan.saved_inputs.b, column, column + states, s);
    p.c = columns(scan.saved_inputs.c, column, column + states, s);
    p.a = scan.heads() ? scan.a + head : scan.a + begin, p.a_stride = scan.heads() ? 0 : channels;
    p.d = scan.heads() ? scan.d + head : scan.d + begin;
    const int64_t offset = scan.heads() ? head * states * scan.width : begin;
    const int64_t stride = scan.heads() ? scan.width : channels;
    p.before = scan.before[i] + offset, p.before_stride = stride;
    const auto own = [&](Matrix m) {
      return m.row_range(piece * scan.x.rows + s.first_row, piece * scan.x.rows + s.first_row + s.rows);
    };
    p.db = own(db), p.dc = own(dc);
    float* const mine = memory + worker * scratch;
    p.dh = mine, p.da = mine + states * size;
    float* const dstate = dstates[i] + offset;
    for (int64_t k = 0; k < states; ++k) std::copy_n(dstate + k * stride, n, p.dh + k * n);
    std::fill_n(p.da, states * n, 0.0f);
    p.dd = dd.row(static_cast<int64_t>(i)) + begin;
    ScanBack(context, p, mine + 3 * states * size).run();
    for (int64_t k = 0; k < states; ++k) {
      std::copy_n(p.dh + k * n, n, dstate + k * stride);
      std::copy_n(p.da + k * n, n, da.row(static_cast<int64_t>(i) * states + k) + begin);
    }
  });

  const kernels::VectorKernels& kernels = context.kernels.vector;
  const Matrix into_b = back.gradient(scan.inputs.b), into_c = back.gradient(scan.inputs.c);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t column = piece / in_unit * unit / (channels / groups) * scan.inputs.group_stride;
    for (int64_t t = 0; t < scan.x.rows; ++t) {
      kernels.add_scaled(db.row(piece * scan.x.rows + t), 1, into_b.row(t) + column, states);
      kernels.add_scaled(dc.row(piece * scan.x.rows + t), 1, into_c.row(t) + column, states);
    }
  }
  float *const into_a = back.gradient(scan.a), *const into_d = back.gradient(scan.d);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = 0; into_a && k < states; ++k)
      for (int64_t c = 0; c < channels; ++c)
        into_a[scan.heads() ? c / scan.width : k * channels + c] += da.row(i * states + k)[c];
    for (int64_t c = 0; into_d && c < channels; ++c) into_d[scan.heads() ? c / scan.width : c] += dd.row(i)[c];
  }
}

void record_scan(Tape& tape, Scan scan, std::span<const Recurrence> sequences) {
  scan.saved_x = tape.save(scan.x), scan.saved_dt = tape.save(scan.dt);
  scan.saved_inputs = scan.inputs;
  scan.saved_inputs.b = tape.save(scan.inputs.b), scan.saved_inputs.c = tape.save(scan.inputs.c);
  scan.sequences.assign(sequences.begin(), sequences.end());
  const auto floats = static_cast<size_t>(scan.states * scan.x.cols);
  for (const Recurrence& s : sequences) scan.before.push_back(tape.save(std::span<const float>(s.state, floats)));
  const Matrix y = scan.y;
  tape.record({y}, [scan = std::move(scan)](Reverse& back) { scan_backward(scan, back); });
}

}  // namespace

void record_selective_scan(Tape& tape, const SelectiveScan& scan, ConstMatrix x, ConstMatrix dt,
                           const ScanInputs& inputs, std::span<const Recurrence> sequences, Matrix y) {
  Scan s;
  s.states = scan.states, s.a = scan.a, s.d = scan.d, s.x = x, s.dt = dt, s.inputs = inputs, s.y = y;
  record_scan(tape, std::move(s), sequences);
}

void record_head_scan(Tape& tape, const HeadScan& scan, ConstMatrix x, ConstMatrix dt, const ScanInputs& inputs,
                      std::span<const Recurrence> sequences, Matrix y) {
  Scan s;
  s.states = scan.states, s.width = x.cols / scan.heads, s.a = scan.a, s.d = scan.d;
  s.x = x, s.dt = dt, s.inputs = inputs, s.y = y;
  record_scan(tape, std::move(s), sequences);
}

// y = clamp(log(1 + exp(x + bias)), low, high): dy sigmoid(x + bias), nothing where a limit holds.
void record_softplus(Tape& tape, ConstMatrix x, const float* bias, Matrix y, float low, float high) {
  const ConstMatrix saved = tape.save(x);
  tape.record({y}, [x, saved, bias, y, low, high](Reverse& back) {
    Context& context = back.context();
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    const Matrix d = context.arena.matrix(x.rows, x.cols), value = context.arena.matrix(x.rows, x.cols);
    for_rows(context, x.rows, x.cols, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float *const g = d.row(r), *const v = value.row(r), *const dout = dy.row(r);
        context.kernels.ssm.softplus(saved.row(r), bias, 0, std::numeric_limits<float>::infinity(), v, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) g[i] = saved.row(r)[i] + (bias ? bias[i] : 0.0f);
        context.kernels.vector.sigmoid(g, g, x.cols);
        for (int64_t i = 0; i < x.cols; ++i) g[i] = v[i] >= low && v[i] <= high ? g[i] * dout[i] : 0.0f;
        std::fill_n(dout, x.cols, 0.0f);
        context.kernels.vector.add_scaled(g, 1, dx.row(r), x.cols);
      }
    });
    if (float* dbias = back.gradient(bias)) add_column_sums(context, d, dbias);
  });
}

}  // namespace coterie::ops
