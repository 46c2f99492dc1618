// SPDX-License-Identifier: Apache-2.0
// What parent and children have in common, descriptors and memory, and how the children's calls are heard.
#include "hybrid/children.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kQuietPeriod = milliseconds(20); // of looks whether children are: one may have died

/// Zero, and shared with all children. Without shared memory each has its own: then a message may be said more than
/// once, and each shows its own clients only.
void *map_shared(std::size_t size)
{
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? apr_pcalloc(ap_pglobal, size) : memory;
}

} // namespace

void Children::share()
{
    if (!retained_.shared)
        retained_.shared = static_cast<Shared *>(map_shared(sizeof(Shared)));
    if (!retained_.counts)
        retained_.counts = static_cast<ClientCounts *>(map_shared(counts_rows(retained_) * sizeof(ClientCounts)));
}

int Children::open()
{
    if (config_.one_process)
        return 0;
    if (retained_.channel_from == 0)
        if (const int error = Channel::make(retained_.channel_to, retained_.channel_from))
            ap_log_error(APLOG_MARK, APLOG_WARNING, error, ap_server_conf,
                         HYBLOGNO(0025) "no socket between the children (AF_UNIX): connections can't go from one to "
                                        "another");
    if (retained_.calls == 0)
        retained_.calls = std::max(0, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    return retained_.calls ? 0 : errno;
}

// The numbers are forgotten, too: they are soon others' in that process, which may fork again.
void Children::disown(Retained &retained)
{
    if (retained.makes_child != pthread_t{} && pthread_equal(retained.makes_child, pthread_self()))
        return;
    for (int *descriptor : {&retained.channel_to, &retained.channel_from, &retained.calls})
        if (const int fd = std::exchange(*descriptor, 0))
            close(fd);
}

// A signal that comes after the look at what signals have asked for ends the sleep: it is held back until then (W24).
void Children::wait_for_call(Duration length)
{
    if (on_news())
        return;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    Time end = later(now(), length);
    const ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    bool blind = false; // the system has no memory for poll(2)
    for (Duration left = length; left > 0 && !mpm.restart_pending && !mpm.shutdown_pending; left = end - now()) {
        struct pollfd call = {retained_.calls, POLLIN, 0};
        const struct timespec timeout = {left / seconds(1), left % seconds(1) * 1000};
        if (const int ready = ppoll(&call, 1, &timeout, &before); ready <= 0) { // or a signal
            blind = ready < 0 && errno != EINTR;
            break;
        }
        std::uint64_t calls = 0;
        [[maybe_unused]] const auto n = read(retained_.calls, &calls, sizeof calls);
        if (on_news())
            break;
        if (calls % Child::kNews >= Child::kHelp)
            end = std::min(end, heeds_again_at_);
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (blind)
        apr_sleep(length);
}

void Children::wait_until_quiet(Duration most)
{
    const auto all_quiet = [this] {
        for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
            const process_score &score = *ap_get_scoreboard_process(slot);
            if (score.pid != 0 && __atomic_load_n(&score.quiescing, __ATOMIC_ACQUIRE) == kUncounted)
                return false;
        }
        return true;
    };
    const Time end = later(now(), most);
    for (Duration left = most; left > 0 && !all_quiet(); left = end - now()) {
        struct pollfd call = {retained_.calls, POLLIN, 0};
        if (poll(&call, 1, static_cast<int>(std::min(left, kQuietPeriod) / milliseconds(1)) + 1) <= 0)
            continue;
        std::uint64_t calls = 0;
        [[maybe_unused]] const auto n = read(retained_.calls, &calls, sizeof calls);
    }
}

} // namespace hybrid
