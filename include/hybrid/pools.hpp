// SPDX-License-Identifier: Apache-2.0
// The pools connections live in ("ptrans").
#pragma once

#include "hybrid/httpd.hpp"

namespace hybrid {

/// Any thread. All pools of a child have one allocator, with a lock: what one request or connection gives back, the
/// next one gets, while it is still in the core's cache (doc/notes). So MaxMemFree is for all of them together.
class Pools {
  public:
    /// `parent` needs an allocator with a mutex: threads are made and end under it meanwhile (T26).
    explicit Pools(apr_pool_t *parent);
    Pools(const Pools &) = delete;

    /// A pool for one connection; nullptr when there is no memory (said in the log).
    apr_pool_t *get();
    /// Takes a pool back: destroys it, which runs all its cleanups on the calling thread.
    void put(apr_pool_t *pool);

  private:
    apr_pool_t *root_ = nullptr;
};

} // namespace hybrid
