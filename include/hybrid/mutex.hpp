// SPDX-License-Identifier: Apache-2.0
// A mutex and a condition that clang's thread-safety analysis understands (it does not know libstdc++'s).
#pragma once

#include <pthread.h>

#if defined(__clang__)
#define HYBRID_TSA(x) __attribute__((x))
#else
#define HYBRID_TSA(x)
#endif

#define CAPABILITY(name) HYBRID_TSA(capability(name))
#define SCOPED_CAPABILITY HYBRID_TSA(scoped_lockable)
#define GUARDED_BY(mu) HYBRID_TSA(guarded_by(mu))
#define REQUIRES(...) HYBRID_TSA(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) HYBRID_TSA(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) HYBRID_TSA(acquire_capability(__VA_ARGS__))
#define RELEASE(...) HYBRID_TSA(release_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(...) HYBRID_TSA(assert_capability(__VA_ARGS__))

namespace hybrid {

/// Not recursive. Never held across a hook or a system call that can block.
class CAPABILITY("mutex") Mutex {
  public:
    Mutex() = default;
    Mutex(const Mutex &) = delete;
    Mutex &operator=(const Mutex &) = delete;
    ~Mutex() { pthread_mutex_destroy(&mu_); }

    void lock() ACQUIRE() { pthread_mutex_lock(&mu_); }
    void unlock() RELEASE() { pthread_mutex_unlock(&mu_); }

  private:
    friend class Condition;
    pthread_mutex_t mu_ = PTHREAD_MUTEX_INITIALIZER;
};

class SCOPED_CAPABILITY Lock {
  public:
    explicit Lock(Mutex &mu) ACQUIRE(mu) : mu_(mu) { mu_.lock(); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;
    ~Lock() RELEASE() { mu_.unlock(); }

  private:
    Mutex &mu_;
};

class Condition {
  public:
    Condition() = default;
    Condition(const Condition &) = delete;
    Condition &operator=(const Condition &) = delete;
    ~Condition() { pthread_cond_destroy(&cond_); }

    /// May wake without reason: call it in a loop around the condition.
    void wait(Mutex &mu) REQUIRES(mu) { pthread_cond_wait(&cond_, &mu.mu_); }
    void wake_one() { pthread_cond_signal(&cond_); }

  private:
    pthread_cond_t cond_ = PTHREAD_COND_INITIALIZER;
};

} // namespace hybrid
