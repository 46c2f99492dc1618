// The pools connections live in ("ptrans"), kept for the next connection when one is gone.
#pragma once

#include "hybrid/httpd.hpp"
#include "hybrid/mutex.hpp"

#include <vector>

namespace hybrid {

/// Any thread. Each pool has an allocator of its own, so that one thread at a time may use it without a lock.
class Pools {
  public:
    /// `parent` needs an allocator with a mutex: pools are made and destroyed under it by different threads (T26).
    /// At most `keep` pools are kept.
    Pools(apr_pool_t *parent, std::size_t keep);
    Pools(const Pools &) = delete;

    /// A pool for one connection; nullptr when there is no memory (said in the log).
    apr_pool_t *get() EXCLUDES(mu_);
    /// Takes a pool back: clears it, which runs all its cleanups on the calling thread, and keeps or destroys it.
    void put(apr_pool_t *pool) EXCLUDES(mu_);
    /// Destroys what is kept and keeps nothing from now on.
    void drain() EXCLUDES(mu_);

  private:
    apr_pool_t *const parent_;
    Mutex mu_;
    std::size_t keep_ GUARDED_BY(mu_);
    std::vector<apr_pool_t *> free_ GUARDED_BY(mu_);
};

} // namespace hybrid
