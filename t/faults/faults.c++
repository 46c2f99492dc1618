// SPDX-License-Identifier: Apache-2.0
// A library to be preloaded: calls of the system that come from the module under test fail when a test says so, while
// the server runs. Calls of others, httpd's above all, are left alone.
//
// The file that HYBRID_FAULTS names is mapped by all processes of the server: one record for each call, which the test
// (t/lib/Hybrid/Faults.pm) writes. The library counts there how often the module has called, and how often that failed.
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <fcntl.h>
#include <new>
#include <poll.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace {

// clang-format off
#define CALLS(X)                                                                                                       \
    X(accept4) X(close) X(epoll_create1) X(epoll_ctl) X(epoll_wait) X(eventfd) X(fcntl) X(fork) X(getpeername)         \
    X(getrlimit) X(getsockopt) X(ioctl) X(mmap) X(open) X(poll) X(ppoll) X(pread) X(pthread_create)                    \
    X(pthread_getcpuclockid) X(read) X(recv) X(recvmsg) X(send) X(sendmsg) X(setsockopt) X(shutdown) X(signalfd)       \
    X(socketpair) X(timerfd_create) X(timerfd_settime) X(write)
// clang-format on

enum Call : unsigned {
#define X(name) k_##name,
    CALLS(X)
#undef X
        k_new,
    kCalls
};

/// Faults.pm has the same layout.
struct Record {
    char name[24];
    std::atomic<std::uint32_t> error; ///< 0: off
    std::uint32_t every;              ///< this one and every so many after it fail
    std::uint32_t nth;                ///< or only this one
    std::uint32_t seed;               ///< or one of `every`, at random
    std::uint32_t op;                 ///< 0, or the operation, command or option it is about
    std::uint32_t on;                 ///< 0, or what the descriptor is, see kind_of()
    std::uint32_t frames;             ///< how far up the caller may be: 1 is who calls
    std::uint32_t unused;
    std::atomic<std::uint64_t> calls;
    std::atomic<std::uint64_t> hits;
};
static_assert(sizeof(Record) == 72);

Record *records;

#define X(name) decltype(&::name) real_##name;
CALLS(X)
#undef X

template <typename Function>
void find(Function &real, const char *name)
{
    real = reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

void find_all()
{
#define X(name) find(real_##name, #name);
    CALLS(X)
#undef X
}

[[gnu::constructor]] void begin()
{
    find_all();
    void *frames[4];
    backtrace(frames, 4); // loads what it needs now
    const char *path = getenv("HYBRID_FAULTS");
    const int fd = path ? real_open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *memory = real_mmap(nullptr, kCalls * sizeof(Record), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    real_close(fd);
    if (memory == MAP_FAILED)
        return;
    const char *const names[] = {
#define X(name) #name,
        CALLS(X)
#undef X
            "new"};
    records = static_cast<Record *>(memory);
    for (unsigned i = 0; i < kCalls; ++i)
        strncpy(records[i].name, names[i], sizeof records[i].name - 1);
}

/// 1: listening, 2: a client's connection, 3: a socket between processes, 4: eventfd, 5: timerfd, 6: signalfd, 7:
/// other.
unsigned kind_of(int fd)
{
    int value = 0;
    socklen_t length = sizeof value;
    if (real_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &value, &length) == 0) {
        if (value == AF_UNIX)
            return 3;
        length = sizeof value;
        return real_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value ? 1 : 2;
    }
    char path[64];
    char target[64] = {};
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (readlink(path, target, sizeof target - 1) < 0)
        return 7;
    return strstr(target, "[eventfd]") ? 4 : strstr(target, "[timerfd]") ? 5 : strstr(target, "[signalfd]") ? 6 : 7;
}

bool is_ours(const void *address)
{
    Dl_info info;
    if (dladdr(address, &info) == 0 || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/');
    return strstr(slash ? slash + 1 : info.dli_fname, "mod_mpm_hybrid"); // also a variant of it
}

[[gnu::noinline]] bool called_by_us(const void *caller, unsigned frames)
{
    if (is_ours(caller))
        return true;
    if (frames < 2)
        return false;
    void *stack[16];
    const int depth = backtrace(stack, 16);
    for (int i = 0; i < depth; ++i)
        if (stack[i] == caller)
            for (int up = i + 1; up < depth && up < i + static_cast<int>(frames); ++up)
                if (is_ours(stack[up]))
                    return true;
    return false;
}

std::uint64_t scramble(std::uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

/// The error this call is to fail with; 0: it shall be made. Leaves errno as it was.
int fails(Call call, const void *caller, int fd = -1, std::uint32_t op = 0)
{
    if (!real_close) // another library's constructor calls
        find_all();
    if (!records)
        return 0;
    Record &record = records[call];
    const auto error = static_cast<int>(record.error.load(std::memory_order_acquire));
    if (error == 0 || (record.op && record.op != op))
        return 0;
    const int before = errno;
    const bool concerns = called_by_us(caller, record.frames) && (!record.on || record.on == kind_of(fd));
    errno = before;
    if (!concerns)
        return 0;
    const std::uint64_t number = ++record.calls;
    const bool hit = record.nth    ? number == record.nth
                     : record.seed ? scramble(record.seed + number * 0x9e3779b97f4a7c15U) % record.every == 0
                                   : (number - 1) % record.every == 0;
    if (!hit)
        return 0;
    ++record.hits;
    return error;
}

#define FAIL_OR(name, result, ...)                                                                                     \
    if (const int error = fails(k_##name, __builtin_return_address(0), __VA_ARGS__)) {                                 \
        errno = error;                                                                                                 \
        return result;                                                                                                 \
    }

} // namespace

#pragma GCC visibility push(default)

void *operator new(std::size_t size, const std::nothrow_t &) noexcept
{
    return fails(k_new, __builtin_return_address(0)) ? nullptr : malloc(size);
}

void *operator new[](std::size_t size, const std::nothrow_t &) noexcept
{
    return fails(k_new, __builtin_return_address(0)) ? nullptr : malloc(size);
}

extern "C" {

int accept4(int fd, sockaddr *address, socklen_t *length, int flags)
{
    FAIL_OR(accept4, -1, fd)
    return real_accept4(fd, address, length, flags);
}

// The descriptor is closed in any case, as Linux does it.
int close(int fd)
{
    const int error = fails(k_close, __builtin_return_address(0), fd);
    const int result = real_close(fd);
    if (!error)
        return result;
    errno = error;
    return -1;
}

int epoll_create1(int flags) noexcept
{
    FAIL_OR(epoll_create1, -1, -1)
    return real_epoll_create1(flags);
}

int epoll_ctl(int epoll, int op, int fd, epoll_event *event) noexcept
{
    FAIL_OR(epoll_ctl, -1, fd, op)
    return real_epoll_ctl(epoll, op, fd, event);
}

int epoll_wait(int epoll, epoll_event *events, int count, int timeout)
{
    FAIL_OR(epoll_wait, -1, epoll)
    return real_epoll_wait(epoll, events, count, timeout);
}

int eventfd(unsigned count, int flags) noexcept
{
    FAIL_OR(eventfd, -1, -1)
    return real_eventfd(count, flags);
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    va_start(arguments, command);
    const long argument = va_arg(arguments, long);
    va_end(arguments);
    FAIL_OR(fcntl, -1, fd, command)
    return real_fcntl(fd, command, argument);
}

pid_t fork() noexcept
{
    FAIL_OR(fork, -1, -1)
    return real_fork();
}

int getpeername(int fd, sockaddr *address, socklen_t *length) noexcept
{
    FAIL_OR(getpeername, -1, fd)
    return real_getpeername(fd, address, length);
}

int getrlimit(__rlimit_resource_t resource, rlimit *limit) noexcept
{
    FAIL_OR(getrlimit, -1, -1)
    return real_getrlimit(resource, limit);
}

int getsockopt(int fd, int level, int option, void *value, socklen_t *length) noexcept
{
    FAIL_OR(getsockopt, -1, fd, option)
    return real_getsockopt(fd, level, option, value, length);
}

int ioctl(int fd, unsigned long request, ...) noexcept
{
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    FAIL_OR(ioctl, -1, fd, static_cast<std::uint32_t>(request))
    return real_ioctl(fd, request, argument);
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset) noexcept
{
    FAIL_OR(mmap, MAP_FAILED, fd)
    return real_mmap(address, length, protection, flags, fd, offset);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    const auto mode = va_arg(arguments, mode_t);
    va_end(arguments);
    FAIL_OR(open, -1, -1)
    return real_open(path, flags, mode);
}

int poll(pollfd *waits, nfds_t count, int timeout)
{
    FAIL_OR(poll, -1, -1)
    return real_poll(waits, count, timeout);
}

int ppoll(pollfd *waits, nfds_t count, const timespec *timeout, const sigset_t *signals)
{
    FAIL_OR(ppoll, -1, -1)
    return real_ppoll(waits, count, timeout, signals);
}

ssize_t pread(int fd, void *bytes, size_t count, off_t offset)
{
    FAIL_OR(pread, -1, fd)
    return real_pread(fd, bytes, count, offset);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) noexcept
{
    if (const int error = fails(k_pthread_create, __builtin_return_address(0)))
        return error;
    return real_pthread_create(thread, attributes, run, argument);
}

int pthread_getcpuclockid(pthread_t thread, clockid_t *clock) noexcept
{
    if (const int error = fails(k_pthread_getcpuclockid, __builtin_return_address(0)))
        return error;
    return real_pthread_getcpuclockid(thread, clock);
}

ssize_t read(int fd, void *bytes, size_t count)
{
    FAIL_OR(read, -1, fd)
    return real_read(fd, bytes, count);
}

ssize_t recv(int fd, void *bytes, size_t count, int flags)
{
    FAIL_OR(recv, -1, fd)
    return real_recv(fd, bytes, count, flags);
}

ssize_t recvmsg(int fd, msghdr *message, int flags)
{
    FAIL_OR(recvmsg, -1, fd)
    return real_recvmsg(fd, message, flags);
}

ssize_t send(int fd, const void *bytes, size_t count, int flags)
{
    FAIL_OR(send, -1, fd)
    return real_send(fd, bytes, count, flags);
}

ssize_t sendmsg(int fd, const msghdr *message, int flags)
{
    FAIL_OR(sendmsg, -1, fd)
    return real_sendmsg(fd, message, flags);
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t length) noexcept
{
    FAIL_OR(setsockopt, -1, fd, option)
    return real_setsockopt(fd, level, option, value, length);
}

int shutdown(int fd, int how) noexcept
{
    FAIL_OR(shutdown, -1, fd)
    return real_shutdown(fd, how);
}

int signalfd(int fd, const sigset_t *signals, int flags) noexcept
{
    FAIL_OR(signalfd, -1, -1)
    return real_signalfd(fd, signals, flags);
}

int socketpair(int domain, int type, int protocol, int *ends) noexcept
{
    FAIL_OR(socketpair, -1, -1)
    return real_socketpair(domain, type, protocol, ends);
}

int timerfd_create(clockid_t clock, int flags) noexcept
{
    FAIL_OR(timerfd_create, -1, -1)
    return real_timerfd_create(clock, flags);
}

int timerfd_settime(int fd, int flags, const itimerspec *time, itimerspec *before) noexcept
{
    FAIL_OR(timerfd_settime, -1, fd)
    return real_timerfd_settime(fd, flags, time, before);
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    FAIL_OR(write, -1, fd)
    return real_write(fd, bytes, count);
}

} // extern "C"
