#include "runtime/prefix_cache.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/fnv.h"

namespace coterie::runtime {

namespace {
constexpr size_t kPageTokens = static_cast<size_t>(ops::kCacheBlock);
constexpr size_t kRememberedEvictions = 1 << 16;

template <typename Range>
uint64_t hash_of(const Range& range, uint64_t hash = base::kFnvBegin) {
  for (const auto value : range) hash = base::fnv_step(hash, static_cast<uint64_t>(value));
  return hash;
}
}  // namespace

/// One page, or a root, which holds none.
struct PrefixCache::Node {
  Node* parent = nullptr;
  const std::string* key = nullptr;  // of a root
  Ids ids = {};
  uint64_t hash = 0;  // of the whole path
  uint64_t used = 0;
  PagePool::Page page;
  std::shared_ptr<RoutePage> routes;
  std::shared_ptr<tensor::Buffer<float>> state;
  PageStore::Place disk;
  std::map<Ids, std::unique_ptr<Node>> children;
};

PrefixCache::PrefixCache(std::shared_ptr<PagePool> pool, std::shared_ptr<const CacheShape> shape, int64_t most_states)
    : pool_(std::move(pool)), shape_(std::move(shape)), most_states_(most_states) {}

PrefixCache::~PrefixCache() { clear(); }

PrefixCache::Ids PrefixCache::ids_of(std::span<const TokenId> ids, size_t page) {
  Ids result;
  std::copy_n(ids.begin() + static_cast<int64_t>(page * kPageTokens), kPageTokens, result.begin());
  return result;
}

void PrefixCache::touch(Node& node, uint64_t when) {
  if (!node.parent) return;
  if (node.children.empty()) leaves_.erase({node.used, &node}), leaves_.insert({when, &node});
  if (node.state) stated_.erase({node.used, &node}), stated_.insert({when, &node});
  node.used = when;
}

std::vector<PrefixCache::Node*> PrefixCache::path(const std::string& key, std::span<const TokenId> ids) const {
  std::vector<Node*> path;
  const auto root = roots_.find(key);
  if (root == roots_.end()) return path;
  const Node* node = root->second.get();
  for (size_t page = 0; page < ids.size() / kPageTokens; ++page) {
    const auto child = node->children.find(ids_of(ids, page));
    if (child == node->children.end()) break;
    node = child->second.get();
    path.push_back(child->second.get());
  }
  return path;
}

size_t PrefixCache::usable(std::span<Node* const> path) const {
  size_t pages = path.size();
  if (shape_->state.floats() > 0)
    while (pages > 0 && !path[pages - 1]->state) --pages;
  return pages;
}

PrefixCache::Found PrefixCache::find(const std::string& key, std::span<const TokenId> ids) {
  Found found;
  if (store_) load(key, ids);
  const std::vector<Node*> known = path(key, ids);
  const size_t pages = usable(known);
  const uint64_t now = ++clock_;
  for (Node* each : known) touch(*each, now);
  for (size_t page = 0; page < pages; ++page) {
    if (shape_->page_bytes() > 0) found.pages.push_back(known[page]->page);
    found.routes.push_back(known[page]->routes);
  }
  if (pages > 0) found.state = known[pages - 1]->state;
  found.positions = static_cast<int64_t>(pages * kPageTokens);
  if (pages < ids.size() / kPageTokens) found.miss = miss(key, known, ids, found.positions);
  return found;
}

std::string PrefixCache::miss(const std::string& key, std::span<Node* const> path, std::span<const TokenId> ids,
                              int64_t usable) const {
  const auto root = roots_.find(key);
  const uint64_t hash = path.empty() ? hash_of(key) : path.back()->hash;
  if (root == roots_.end() && !evicted_.contains(hash)) return "nothing was cached under its settings and salt";
  const bool next = path.size() < ids.size() / kPageTokens;  // a page beyond what is known
  if (root == roots_.end() || (next && evicted_.contains(hash_of(ids_of(ids, path.size()), hash))))
    return fmt::format("from position {} on it was evicted to stay within the memory", usable);
  const auto known = std::ssize(path) * ops::kCacheBlock;
  if (usable < known)
    return fmt::format("{} positions are known, but recurrent states were last kept at {}", known, usable);
  return (path.empty() ? root->second->children : path.back()->children).empty()
             ? fmt::format("nothing longer than {} positions was computed", usable)
             : fmt::format("it differs from what is cached within the {} positions from {} on", ops::kCacheBlock,
                           usable);
}

int64_t PrefixCache::known(const std::string& key, std::span<const TokenId> ids) const {
  return static_cast<int64_t>(usable(path(key, ids)) * kPageTokens);
}

int64_t PrefixCache::in_use(const std::string& key, std::span<const TokenId> ids) const {
  if (shape_->page_bytes() == 0) return 0;
  const std::vector<Node*> known = path(key, ids);
  return std::count_if(known.begin(), known.begin() + static_cast<int64_t>(usable(known)),
                       [&](const Node* node) { return pool_->holders(node->page) > 1; });
}

void PrefixCache::insert(const std::string& key, std::span<const TokenId> ids, KvCache& cache,
                         std::span<const std::shared_ptr<RoutePage>> routes) {
  const size_t pages = std::min(ids.size(), static_cast<size_t>(cache.length())) / kPageTokens;
  const bool states = shape_->state.floats() > 0;
  base::require(!states || (std::ssize(ids) == cache.length() && ids.size() % kPageTokens == 0), "prefix cache",
                "recurrent states of {} positions cannot be kept with {} tokens", cache.length(), ids.size());
  // Where the model has states, pages without a state after them are of no use to anyone.
  if (pages == 0 || (states && most_states_ == 0)) return;
  cache.fetch();
  // Room first: what is given up for it may be a part of this very path.
  if (states && known(key, ids) < std::ssize(ids)) evict_states(most_states_ - 1);
  const uint64_t now = ++clock_;
  Node* node = &root(key);
  for (size_t page = 0; page < pages; ++page) {
    const Ids wanted = ids_of(ids, page);
    auto child = node->children.find(wanted);
    if (child == node->children.end()) {
      Node& made = add_child(*node, wanted, now);
      if (shape_->page_bytes() > 0) pool_->share(made.page = cache.pages()[page]);
      if (page < routes.size()) made.routes = routes[page];
      node = &made;
      continue;
    } else {
      if (shape_->page_bytes() > 0) cache.replace_page(page, child->second->page);
      if (!child->second->routes && page < routes.size()) child->second->routes = routes[page];
      touch(*child->second, now);
    }
    node = child->second.get();
  }
  if (states && !node->state) {
    node->state = cache.copy_of_states();
    stated_.insert({node->used, node});
  }
  if (!store_) return;
  store_->make_room();
  write(*node);
}

PrefixCache::Node& PrefixCache::root(const std::string& key) {
  auto found = roots_.find(key);
  if (found == roots_.end()) {
    found = roots_.emplace(key, std::make_unique<Node>()).first;
    found->second->key = &found->first;
    found->second->hash = hash_of(key);
  }
  return *found->second;
}

PrefixCache::Node& PrefixCache::add_child(Node& parent, const Ids& ids, uint64_t when) {
  auto made = std::make_unique<Node>();
  made->parent = &parent;
  made->ids = ids;
  made->hash = hash_of(ids, parent.hash);
  made->used = when;
  if (parent.parent && parent.children.empty()) leaves_.erase({parent.used, &parent});
  Node& child = *parent.children.emplace(ids, std::move(made)).first->second;
  leaves_.insert({when, &child});
  ++nodes_;
  return child;
}

void PrefixCache::keep_on(std::unique_ptr<PageStore> store, int64_t route_values) {
  store_ = std::move(store);
  route_bytes_ = static_cast<size_t>(route_values) * sizeof(uint16_t);
  record_.resize(static_cast<size_t>(shape_->page_bytes()) + route_bytes_);
}

// Where the pages that follow `path` are on disk, as far as somebody could go on from them.
std::vector<PageStore::Place> PrefixCache::on_disk(const std::string& key, std::span<Node* const> path,
                                                   std::span<const TokenId> ids) const {
  std::vector<PageStore::Place> longest;
  for (PageStore::Place at : path.empty() ? store_->find_roots(key) : std::vector{path.back()->disk}) {
    std::vector<PageStore::Place> places;
    for (size_t page = path.size(); page < ids.size() / kPageTokens; ++page) {
      at = store_->find(at, ids_of(ids, page));
      if (!store_->holds(at)) break;
      places.push_back(at);
    }
    if (shape_->state.floats() > 0)
      while (!places.empty() && !store_->has_state(places.back())) places.pop_back();
    if (places.size() > longest.size()) longest.swap(places);
  }
  return longest;
}

void PrefixCache::load(const std::string& key, std::span<const TokenId> ids) {
  constexpr int64_t kAtOnce = 256 << 20;  // bytes: reading more would hold up everybody's step
  const std::vector<Node*> known = path(key, ids);
  const std::vector<PageStore::Place> places = on_disk(key, known, ids);
  if (places.empty() || (shape_->state.floats() > 0 && most_states_ == 0)) return;
  Node* node = known.empty() ? nullptr : known.back();
  int64_t left = std::max<int64_t>(kAtOnce / std::max<int64_t>(std::ssize(record_), 1), 1);
  const uint64_t now = ++clock_;
  for (Node* each : known) touch(*each, now);
  for (size_t i = 0; i < places.size() && left-- > 0; ++i) {
    // What it hangs on must not be what makes room for it.
    const bool has_page = shape_->page_bytes() > 0 && node;
    if (has_page) pool_->share(node->page);
    const bool room = shape_->page_bytes() == 0 || pool_->room() > 0 || evict(1) > 0;
    if (has_page) pool_->give(node->page);
    if (!room) break;
    if (!node) node = &root(key);
    Node& child = add_child(*node, ids_of(ids, known.size() + i), now);
    if (!load(child, places[i])) break;
    node = &child;
  }
}

/// Reads what belongs to a node that was just made; without it the node goes again.
bool PrefixCache::load(Node& node, PageStore::Place place) {
  const auto page_bytes = static_cast<size_t>(shape_->page_bytes());
  std::vector<PagePool::Page> page;
  bool good = store_->read(place, record_);
  try {
    if (good && page_bytes > 0) pool_->take(1, page);
    if (good && route_bytes_ > 0) {
      node.routes = std::make_shared<RoutePage>(route_bytes_ / sizeof(uint16_t));
      std::memcpy(node.routes->data(), record_.data() + page_bytes, route_bytes_);
    }
    if (good && store_->has_state(place)) {
      evict_states(most_states_ - 1);
      auto state = std::make_shared<tensor::Buffer<float>>(shape_->state.floats());
      if (store_->read_state(place,
                             std::as_writable_bytes(std::span(state->data(), static_cast<size_t>(state->size())))))
        node.state = std::move(state);
    }
  } catch (const base::Error&) {
    good = false;  // no memory now
  }
  if (good) {
    node.disk = place;
    if (page_bytes > 0) std::memcpy((node.page = page.front()).bytes, record_.data(), page_bytes);
    if (node.state) stated_.insert({node.used, &node});
    return true;
  }
  if (!page.empty()) pool_->give(page.front());
  Node* const parent = node.parent;
  leaves_.erase({node.used, &node});
  --nodes_;
  const Ids ids = node.ids;
  parent->children.erase(ids);
  if (parent->children.empty() && parent->parent) leaves_.insert({parent->used, parent});
  return false;
}

/// Sees to it that the node and all that it hangs on stand in the file that is written to. False once that is full.
bool PrefixCache::write(Node& node) {
  std::vector<Node*> missing;
  for (Node* each = &node; each && !store_->is_current(each->disk); each = each->parent) missing.push_back(each);
  const auto page_bytes = static_cast<size_t>(shape_->page_bytes());
  for (auto each = missing.rbegin(); each != missing.rend(); ++each) {
    Node& next = **each;
    PageStore::Place place = next.parent ? store_->find(next.parent->disk, next.ids) : store_->current_root(*next.key);
    if (!store_->is_current(place)) {
      if (next.parent) {
        if (page_bytes > 0) std::memcpy(record_.data(), next.page.bytes, page_bytes);
        if (route_bytes_ > 0 && !next.routes) return true;  // not of use to who asks for routes
        if (route_bytes_ > 0) std::memcpy(record_.data() + page_bytes, next.routes->data(), route_bytes_);
      }
      place = next.parent ? store_->add(next.parent->disk, next.ids, record_) : store_->add_root(*next.key);
    }
    if (!store_->is_current(place)) return false;
    next.disk = place;
  }
  if (node.state)
    store_->add_state(node.disk, std::as_bytes(std::span(node.state->data(), static_cast<size_t>(node.state->size()))));
  return true;
}

void PrefixCache::limit_states(int64_t most) {
  most_states_ = most;
  evict_states(most);
}

void PrefixCache::evict_states(int64_t kept) {
  for (; std::ssize(stated_) > kept; ++states_evicted_) give_state(*stated_.begin()->second);
}

void PrefixCache::give_state(Node& node) {
  stated_.erase({node.used, &node});
  node.state.reset();
  // Up to the next state nobody can go on from here any more.
  for (Node* leaf = &node; leaf->parent && leaf->children.empty() && !leaf->state;) {
    Node* const parent = leaf->parent;
    remove(*leaf);
    leaf = parent;
  }
}

void PrefixCache::remove(Node& leaf) {
  if (leaf.state) stated_.erase({leaf.used, &leaf});
  leaves_.erase({leaf.used, &leaf});
  if (shape_->page_bytes() > 0) pool_->give(leaf.page);
  remember_evicted(leaf.hash);
  ++pages_evicted_, --nodes_;
  Node* const parent = leaf.parent;
  const Ids ids = leaf.ids;
  parent->children.erase(ids);
  if (parent->children.empty() && parent->parent) leaves_.insert({parent->used, parent});
}

void PrefixCache::remember_evicted(uint64_t hash) {
  if (!evicted_.insert(hash).second) return;
  evicted_order_.push_back(hash);
  if (evicted_order_.size() <= kRememberedEvictions) return;
  evicted_.erase(evicted_order_.front());
  evicted_order_.pop_front();
}

int64_t PrefixCache::evict(int64_t pages) {
  int64_t given = 0;
  for (auto place = leaves_.begin(); given < pages && place != leaves_.end();) {
    Node& leaf = *place->second;
    if (shape_->page_bytes() > 0 && pool_->holders(leaf.page) > 1) {
      ++place;  // a sequence that runs holds it too: nothing would be won
      continue;
    }
    remove(leaf);
    ++given;
    // What it hung on may be older than what was passed over.
    place = leaves_.begin();
  }
  for (auto root = roots_.begin(); root != roots_.end();) {
    if (!root->second->children.empty()) {
      ++root;
      continue;
    }
    remember_evicted(root->second->hash);
    root = roots_.erase(root);
  }
  return given;
}

int64_t PrefixCache::evictable() const {
  if (shape_->page_bytes() == 0) return nodes_;
  int64_t count = 0;
  std::vector<const Node*> open;
  for (const auto& [key, root] : roots_) open.push_back(root.get());
  while (!open.empty()) {
    const Node* node = open.back();
    open.pop_back();
    if (node->parent && pool_->holders(node->page) == 1) ++count;
    for (const auto& [ids, child] : node->children) open.push_back(child.get());
  }
  return count;
}

void PrefixCache::clear() {
  while (!leaves_.empty()) remove(*leaves_.begin()->second);
  roots_.clear();
  stated_.clear();
}

}  // namespace coterie::runtime
