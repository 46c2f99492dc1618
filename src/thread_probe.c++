// SPDX-License-Identifier: Apache-2.0
#include "hybrid/thread_probe.hpp"

#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace hybrid {

void ThreadProbe::look_at_me()
{
    tid_ = static_cast<pid_t>(syscall(SYS_gettid));
    stat_ = Fd();
    if (pthread_getcpuclockid(pthread_self(), &clock_) != 0)
        clock_ = -1;
}

Duration ThreadProbe::cpu_time() const
{
    struct timespec used;
    if (clock_gettime(clock_, &used) != 0)
        return 0;
    return seconds(used.tv_sec) + used.tv_nsec / 1000;
}

ThreadState ThreadProbe::state()
{
    if (!stat_) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", static_cast<int>(tid_));
        stat_ = Fd(open(path, O_RDONLY | O_CLOEXEC));
    }
    char text[128]; // "TID (name) S ...", the name has 16 bytes at most
    const ssize_t length = stat_ ? pread(stat_.get(), text, sizeof text - 1, 0) : -1;
    if (length <= 0)
        return ThreadState::Unknown;
    text[length] = '\0';
    const char *name_end = strrchr(text, ')');
    if (!name_end || name_end[1] != ' ')
        return ThreadState::Unknown;
    return name_end[2] == 'R' ? ThreadState::Runnable : ThreadState::Blocked;
}

} // namespace hybrid
