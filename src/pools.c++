// SPDX-License-Identifier: Apache-2.0
#include "hybrid/pools.hpp"

namespace hybrid {

Pools::Pools(apr_pool_t *parent)
{
    apr_allocator_t *allocator = nullptr;
    apr_status_t rv = apr_allocator_create(&allocator);
    if (rv == APR_SUCCESS) {
        apr_allocator_max_free_set(allocator, ap_max_mem_free);
        rv = apr_pool_create_ex(&root_, parent, nullptr, allocator);
    }
    if (rv == APR_SUCCESS) {
        apr_allocator_owner_set(allocator, root_);
        apr_pool_tag(root_, "transactions");
        apr_thread_mutex_t *mutex = nullptr;
        rv = apr_thread_mutex_create(&mutex, APR_THREAD_MUTEX_DEFAULT, root_);
        apr_allocator_mutex_set(allocator, mutex);
    }
    ap_assert(rv == APR_SUCCESS);
}

apr_pool_t *Pools::get()
{
    apr_pool_t *pool = nullptr;
    const apr_status_t rv = apr_pool_create(&pool, root_);
    if (rv != APR_SUCCESS) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, ap_server_conf, APLOGNO(03097) "Failed to create transaction pool");
        return nullptr;
    }
    apr_pool_tag(pool, "transaction");
    return pool;
}

void Pools::put(apr_pool_t *pool)
{
    apr_pool_destroy(pool);
}

} // namespace hybrid
