#include "hybrid/pools.hpp"

#include <utility>

namespace hybrid {

Pools::Pools(apr_pool_t *parent, std::size_t keep) : parent_(parent), keep_(keep) {}

apr_pool_t *Pools::get()
{
    {
        Lock lock(mu_);
        if (!free_.empty()) {
            apr_pool_t *pool = free_.back();
            free_.pop_back();
            return pool;
        }
    }
    apr_allocator_t *allocator = nullptr;
    apr_pool_t *pool = nullptr;
    apr_status_t rv = apr_allocator_create(&allocator);
    if (rv == APR_SUCCESS) {
        apr_allocator_max_free_set(allocator, ap_max_mem_free);
        rv = apr_pool_create_ex(&pool, parent_, nullptr, allocator);
    }
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, ap_server_conf, APLOGNO(03097) "Failed to create transaction pool");
        if (allocator)
            apr_allocator_destroy(allocator);
        return nullptr;
    }
    apr_pool_tag(pool, "transaction");
    apr_allocator_owner_set(allocator, pool);
    return pool;
}

void Pools::put(apr_pool_t *pool)
{
    apr_pool_clear(pool);
    {
        Lock lock(mu_);
        if (free_.size() < keep_) {
            free_.push_back(pool);
            return;
        }
    }
    apr_pool_destroy(pool);
}

void Pools::drain()
{
    std::vector<apr_pool_t *> rest;
    {
        Lock lock(mu_);
        keep_ = 0;
        rest.swap(free_);
    }
    for (apr_pool_t *pool : rest)
        apr_pool_destroy(pool);
}

} // namespace hybrid
