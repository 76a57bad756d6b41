#include <algorithm>
#include <limits>
#include <vector>

#include "ops/gradients.h"
#include "ops/products.h"
#include "ops/rows.h"

// The backward of the gated delta rule. With s the state before a token and S the one after, from the last token to the
// first, dS given:
//   dq = S dy;  dS += q dyᵀ;  du = dSᵀ k;  dk = dS u;  dbeta = du·(v - w);  dv = beta du;  dw = -beta du
//   dS += k dwᵀ;  dk += (decay s) dw;  ddecay[i] = dS[i]·s[i];  ds = decay dS       where w = (decay s)ᵀ k
// States are not kept: those before each block of tokens are computed first, then, block by block from the last, the
// states within.
namespace coterie::ops {

namespace {

constexpr int64_t kTokens = 32;  // of a block

float dot(const float* a, const float* b, int64_t n) {
  float sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int64_t j = 0; j < 8; ++j) sum[j] += a[i + j] * b[i + j];
  for (; i < n; ++i) sum[i % 8] += a[i] * b[i];
  return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/// One head of one sequence: rows of its own columns alone.
struct Head {
  int64_t rows = 0, keys = 0, channels = 0;
  ConstMatrix q, k, v, decay, beta;
  Matrix dy, dq, dk, dv, ddecay, dbeta;
  const float* before;  // [keys, channels] state before the first token
  float* ds;            // [keys, channels] in: by the state after the last token; out: before the first

  bool by_key() const { return decay.cols > 1; }
};

class DeltaBack {
 public:
  DeltaBack(const Head& head, float* memory) : h_(head), size_(head.keys * head.channels) {
    blocks_ = memory, states_ = blocks_ + (h_.rows + kTokens - 1) / kTokens * size_;
    w_ = states_ + (kTokens + 1) * size_, u_ = w_ + h_.channels, du_ = u_ + h_.channels;
  }
  static int64_t floats(int64_t rows, int64_t keys, int64_t channels) {
    return ((rows + kTokens - 1) / kTokens + kTokens + 1) * keys * channels + 3 * channels;
  }

  void run() {
    const int64_t count = (h_.rows + kTokens - 1) / kTokens;
    std::copy_n(h_.before, size_, states_);
    for (int64_t block = 0; block < count; ++block) {
      std::copy_n(states_, size_, blocks_ + block * size_);
      if (block + 1 == count) break;
      for (int64_t t = block * kTokens; t < (block + 1) * kTokens; ++t) step(t, states_, states_);
    }
    for (int64_t block = count - 1; block >= 0; --block) {
      const int64_t begin = block * kTokens, end = std::min(begin + kTokens, h_.rows);
      std::copy_n(blocks_ + block * size_, size_, states_);
      for (int64_t t = begin; t < end; ++t) step(t, states_ + (t - begin) * size_, states_ + (t - begin + 1) * size_);
      for (int64_t t = end - 1; t >= begin; --t)
        back(t, states_ + (t - begin) * size_, states_ + (t - begin + 1) * size_);
    }
  }

 private:
  float decay(int64_t t, int64_t key) const { return h_.decay.row(t)[h_.by_key() ? key : 0]; }

  // What the token recalls and what it writes, from the state before it.
  void recall(int64_t t, const float* s) {
    const int64_t n = h_.channels;
    std::fill_n(w_, n, 0.0f);
    for (int64_t i = 0; i < h_.keys; ++i) {
      const float kept = h_.k.row(t)[i] * decay(t, i);
      for (int64_t c = 0; c < n; ++c) w_[c] += kept * s[i * n + c];
    }
    for (int64_t c = 0; c < n; ++c) u_[c] = h_.beta.row(t)[0] * (h_.v.row(t)[c] - w_[c]);
  }

  void step(int64_t t, const float* s, float* after) {
    recall(t, s);
    const int64_t n = h_.channels;
    for (int64_t i = 0; i < h_.keys; ++i) {
      const float kept = decay(t, i), k = h_.k.row(t)[i];
      for (int64_t c = 0; c < n; ++c) after[i * n + c] = kept * s[i * n + c] + k * u_[c];
    }
  }

  void back(int64_t t, const float* s, const float* after) {
    recall(t, s);
    const int64_t n = h_.channels;
    const float *const q = h_.q.row(t), *const k = h_.k.row(t);
    float *const dy = h_.dy.row(t), *const dv = h_.dv.row(t);
    float *const dq = h_.dq.row(t), *const dk = h_.dk.row(t);
    std::fill_n(du_, n, 0.0f);
    for (int64_t i = 0; i < h_.keys; ++i) {
      float* const ds = h_.ds + i * n;
      dq[i] += dot(after + i * n, dy, n);
      for (int64_t c = 0; c < n; ++c) {
        ds[c] += q[i] * dy[c];
        du_[c] += k[i] * ds[c];
      }
      dk[i] += dot(ds, u_, n);
    }
    const float beta = h_.beta.row(t)[0];
    float along = 0;
    for (int64_t c = 0; c < n; ++c) {
      along += du_[c] * (h_.v.row(t)[c] - w_[c]);
      dv[c] += beta * du_[c];
      du_[c] *= -beta;  // of w from here on
      dy[c] = 0;
    }
    h_.dbeta.row(t)[0] += along;
    for (int64_t i = 0; i < h_.keys; ++i) {
      float* const ds = h_.ds + i * n;
      const float kept = decay(t, i);
      for (int64_t c = 0; c < n; ++c) ds[c] += k[i] * du_[c];
      dk[i] += kept * dot(s + i * n, du_, n);
      h_.ddecay.row(t)[h_.by_key() ? i : 0] += dot(ds, s + i * n, n);
      for (int64_t c = 0; c < n; ++c) ds[c] *= kept;
    }
  }

  Head h_;
  int64_t size_;
  float *blocks_, *states_, *w_, *u_, *du_;
};

struct Rule {
  DeltaRule rule;
  DeltaInputs inputs, saved;
  std::vector<Recurrence> sequences;
  std::vector<const float*> before;
  Matrix y;
};

template <typename M>
M part(const M& m, const Recurrence& s, int64_t begin, int64_t end) {
  return m.row_range(s.first_row, s.first_row + s.rows).col_range(begin, end);
}

void delta_backward(const Rule& r, Reverse& back) {
  Context& context = back.context();
  const DeltaRule& rule = r.rule;
  const int64_t heads = rule.value_heads, keys = rule.key_dim, channels = rule.value_dim, rows = r.y.rows;
  const int64_t each = r.inputs.decay.cols / heads;
  const Matrix dy = back.gradient(r.y), dv = back.gradient(r.inputs.v), ddecay = back.gradient(r.inputs.decay);
  const Matrix dbeta = back.gradient(r.inputs.beta);
  // Value heads share queries and keys: each adds its own, which are summed in order afterwards.
  const Matrix dq = context.arena.matrix(rows, heads * keys), dk = context.arena.matrix(rows, heads * keys);
  clear(context, dq), clear(context, dk);
  std::vector<float*> dstates;
  int64_t longest = 0;
  for (const Recurrence& s : r.sequences) {
    dstates.push_back(back.outside(s.state, heads * keys * channels));
    longest = std::max(longest, s.rows);
  }
  const int64_t scratch = DeltaBack::floats(longest, keys, channels);
  float* const memory = context.arena.take<float>(context.pool.threads() * scratch);
  context.pool.each(static_cast<int64_t>(r.sequences.size()) * heads, [&](int64_t task, int worker) {
    const auto i = static_cast<size_t>(task / heads);
    const Recurrence& s = r.sequences[i];
    if (s.rows == 0) return;
    const int64_t head = task % heads, key = rule.key_head(head) * keys, value = head * channels;
    Head h;
    h.rows = s.rows, h.keys = keys, h.channels = channels;
    h.q = part(r.saved.q, s, key, key + keys), h.k = part(r.saved.k, s, key, key + keys);
    h.v = part(r.saved.v, s, value, value + channels);
    h.decay = part(r.saved.decay, s, head * each, (head + 1) * each), h.beta = part(r.saved.beta, s, head, head + 1);
    h.dy = part(dy, s, value, value + channels), h.dv = part(dv, s, value, value + channels);
    h.dq = part(dq, s, head * keys, (head + 1) * keys), h.dk = part(dk, s, head * keys, (head + 1) * keys);
    h.ddecay = part(ddecay, s, head * each, (head + 1) * each), h.dbeta = part(dbeta, s, head, head + 1);
    h.before = r.before[i] + head * keys * channels, h.ds = dstates[i] + head * keys * channels;
    DeltaBack(h, memory + worker * scratch).run();
  });
  const Matrix into_q = back.gradient(r.inputs.q), into_k = back.gradient(r.inputs.k);
  for_rows(context, rows, heads * keys, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t key = rule.key_head(head) * keys;
        context.kernels.vector.add_scaled(dq.row(t) + head * keys, 1, into_q.row(t) + key, keys);
        context.kernels.vector.add_scaled(dk.row(t) + head * keys, 1, into_k.row(t) + key, keys);
      }
  });
}

}  // namespace

void record_delta_rule(Tape& tape, const DeltaRule& rule, const DeltaInputs& in, std::span<const Recurrence> sequences,
                       Matrix y) {
  Rule r;
  r.rule = rule, r.inputs = in, r.y = y;
  r.saved = {tape.save(in.q), tape.save(in.k), tape.save(in.v), tape.save(in.decay), tape.save(in.beta)};
  r.sequences.assign(sequences.begin(), sequences.end());
  const auto floats = static_cast<size_t>(rule.value_heads * rule.key_dim * rule.value_dim);
  for (const Recurrence& s : sequences) r.before.push_back(tape.save(std::span<const float>(s.state, floats)));
  tape.record({y}, [r = std::move(r)](Reverse& back) { delta_backward(r, back); });
}

// y = exp(g): dg = dy y. Without a floor g = a softplus(f): df = dg a sigmoid(f), da = Σ dg softplus(f). With one
// g = floor z, z = sigmoid(-a f): df = -a e and da = -Σ f e, where e = dg floor z (1 - z).
void record_decay(Tape& tape, const Decay& decay, ConstMatrix x, Matrix y) {
  const ConstMatrix saved = tape.save(x);
  tape.record({y}, [decay, x, saved, y](Reverse& back) {
    Context& context = back.context();
    const int64_t n = x.cols, width = n / decay.heads;
    const Matrix dx = back.gradient(x), dy = back.gradient(y);
    const Matrix df = context.arena.matrix(x.rows, n), da = context.arena.matrix(x.rows, n);
    const Matrix value = context.arena.matrix(x.rows, n), g = context.arena.matrix(x.rows, n);
    for_rows(context, x.rows, n, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const float* const in = saved.row(r);
        float *const d = df.row(r), *const da_row = da.row(r), *const v = value.row(r), *const gr = g.row(r);
        float* const dout = dy.row(r);
        if (decay.floor == 0) {
          context.kernels.ssm.softplus(in, decay.bias, 0, std::numeric_limits<float>::infinity(), v, n);
          for (int64_t i = 0; i < n; ++i) d[i] = in[i] + decay.bias[i], gr[i] = decay.a[i / width] * v[i];
        } else {
          for (int64_t i = 0; i < n; ++i) d[i] = -decay.a[i / width] * (in[i] + decay.bias[i]);
        }
        context.kernels.vector.sigmoid(d, d, n);
        for (int64_t i = 0; i < n && decay.floor != 0; ++i) gr[i] = decay.floor * d[i];
        context.kernels.vector.exp(gr, gr, n);
        for (int64_t i = 0; i < n; ++i) {
          const float dg = dout[i] * gr[i], a = decay.a[i / width];
          if (decay.floor == 0) {
            da_row[i] = dg * v[i];
            d[i] *= dg * a;
          } else {
            const float e = dg * decay.floor * d[i] * (1 - d[i]);
            da_row[i] = -e * (in[i] + decay.bias[i]);
            d[i] = -a * e;
          }
          dout[i] = 0;
        }
        context.kernels.vector.add_scaled(d, 1, dx.row(r), n);
      }
    });
    if (float* const dbias = back.gradient(decay.bias)) add_column_sums(context, df, dbias);
    float* const into = back.gradient(decay.a);
    for (int64_t r = 0; into && r < x.rows; ++r)
      for (int64_t i = 0; i < n; ++i) into[i / width] += da.row(r)[i];
  });
}

}  // namespace coterie::ops
