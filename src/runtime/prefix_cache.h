#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/page_pool.h"
#include "runtime/page_store.h"
#include "text/tokenizer.h"

namespace coterie::runtime {

/// Something kept beside a page for its 16 positions: the experts they were sent to.
using RoutePage = std::vector<uint16_t>;

/// What has been computed of the beginnings of sequences, for sequences to come: a tree whose nodes are pages of 16
/// positions, shared by reference count with the sequences that run, and copies of recurrent states where there were
/// some. What is least recently used goes first, leaves before what they hang on. Used by one thread.
///
/// Roots are apart by a key (prefix_key.h), which holds everything beside the tokens that a page's bits depend on.
class PrefixCache {
 public:
  using TokenId = text::TokenId;

  /// `most_states`: copies of recurrent states that it may hold.
  PrefixCache(std::shared_ptr<PagePool> pool, std::shared_ptr<const CacheShape> shape, int64_t most_states);
  ~PrefixCache();
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  struct Found {
    int64_t positions = 0;                           // a multiple of 16; 0: none
    std::vector<PagePool::Page> pages;               // theirs, until the cache is changed; none for models without
    std::vector<std::shared_ptr<RoutePage>> routes;  // theirs
    std::shared_ptr<tensor::Buffer<float>> state;    // after them; null for models without
    std::string miss;                                // why it is not more, for people; empty when it is all of `ids`
  };
  /// The longest known beginning of `ids` that a sequence can go on from, a whole number of pages. Marks it as used.
  Found find(const std::string& key, std::span<const TokenId> ids);
  /// Keeps what is inserted from now on in `store` too, and finds what is there; `route_values`: of a page's routes, 0
  /// where none are kept. Pages come back from the disk a bounded number at a time, so a find() may be followed by one
  /// that finds more.
  void keep_on(std::unique_ptr<PageStore> store, int64_t route_values);
  const PageStore* store() const { return store_.get(); }
  /// How long it would be; marks nothing.
  int64_t known(const std::string& key, std::span<const TokenId> ids) const;

  /// How many of its pages sequences that run hold too.
  int64_t in_use(const std::string& key, std::span<const TokenId> ids) const;

  /// Keeps what `cache` has computed of `ids`, whole pages of them. Where the same page is known already, the cache
  /// gets that one for its own, which saves one. `routes` are those of its pages, or empty. With recurrent states
  /// `cache` must stand at the end of `ids` and that be the end of a page: its states are copied, where there is room.
  void insert(const std::string& key, std::span<const TokenId> ids, KvCache& cache,
              std::span<const std::shared_ptr<RoutePage>> routes);

  /// Gives back at least `pages` pages that nobody else holds, if there are so many. Returns how many.
  int64_t evict(int64_t pages);
  /// Pages that evict() could give back.
  int64_t evictable() const;
  /// Copies of states it may hold from now on; surplus ones go, the least recently used first.
  void limit_states(int64_t most);
  void clear();

  int64_t nodes() const { return nodes_; }
  int64_t states() const { return static_cast<int64_t>(stated_.size()); }
  uint64_t pages_evicted() const { return pages_evicted_; }
  uint64_t states_evicted() const { return states_evicted_; }

 private:
  using Ids = std::array<TokenId, ops::kCacheBlock>;
  struct Node;
  using Place = std::pair<uint64_t, Node*>;  // by last use

  /// From the root on, as far as `ids` are known.
  std::vector<Node*> path(const std::string& key, std::span<const TokenId> ids) const;
  size_t usable(std::span<Node* const> path) const;
  static Ids ids_of(std::span<const TokenId> ids, size_t page);
  void touch(Node& node, uint64_t when);
  Node& root(const std::string& key);
  Node& add_child(Node& parent, const Ids& ids, uint64_t when);
  std::vector<PageStore::Place> on_disk(const std::string& key, std::span<Node* const> path,
                                        std::span<const TokenId> ids) const;
  void load(const std::string& key, std::span<const TokenId> ids);
  bool load(Node& node, PageStore::Place place);
  bool write(Node& node);
  void evict_states(int64_t kept);
  void give_state(Node& node);
  void remove(Node& leaf);
  void remember_evicted(uint64_t hash);
  std::string miss(const std::string& key, std::span<Node* const> path, std::span<const TokenId> ids,
                   int64_t usable) const;

  std::shared_ptr<PagePool> pool_;
  std::shared_ptr<const CacheShape> shape_;
  std::unique_ptr<PageStore> store_;  // null: nothing is kept on disk
  size_t route_bytes_ = 0;
  std::vector<std::byte> record_;  // one, on its way to the disk or back
  int64_t most_states_, nodes_ = 0;
  std::map<std::string, std::unique_ptr<Node>> roots_;
  std::set<Place> leaves_, stated_;
  uint64_t clock_ = 0, pages_evicted_ = 0, states_evicted_ = 0;
  // Hashes of paths whose pages went for want of room, so that a miss can say so.
  std::unordered_set<uint64_t> evicted_;
  std::deque<uint64_t> evicted_order_;
};

}  // namespace coterie::runtime
