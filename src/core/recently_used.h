// RecentlyUsed: values made at their first use and kept, at most so many; the one that was asked for longest ago goes.
//
// For what is costly to make, small, and asked for again and again, such as the plans of a matrix library, of which a
// program that reads prompts of any length needs any number in the end.
#pragma once

#include <cstddef>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace coluber {

template <class Key, class Value>
class RecentlyUsed {
 public:
  explicit RecentlyUsed(std::size_t most) : most_(most) {}  // 1 or more

  // Of `key`; make() gives it a std::shared_ptr<const Value> where there is none, and nothing is kept when it throws.
  // Callers on several threads take turns. Who holds a value keeps it, also when its place has gone to another.
  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, Make&& make) {
    const std::lock_guard lock(mutex_);
    if (const auto found = places_.find(key); found != places_.end()) {
      values_.splice(values_.begin(), values_, found->second);
      return found->second->second;
    }
    values_.emplace_front(key, make());
    try {
      places_.emplace(key, values_.begin());
    } catch (...) {
      values_.pop_front();
      throw;
    }
    if (values_.size() > most_) {
      places_.erase(values_.back().first);
      values_.pop_back();
    }
    return values_.front().second;
  }

 private:
  using Values = std::list<std::pair<Key, std::shared_ptr<const Value>>>;  // the one asked for last is first

  const std::size_t most_;
  std::mutex mutex_;
  Values values_;
  std::map<Key, typename Values::iterator> places_;
};

}  // namespace coluber
