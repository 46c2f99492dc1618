// SPDX-License-Identifier: Apache-2.0
/* For LD_PRELOAD: which threads call malloc_trim(), in $TRIM_LOG, "PID TID" a line. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

int malloc_trim(size_t pad)
{
    char line[64];
    const char *path = getenv("TRIM_LOG");
    int fd = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666) : -1;
    int length = snprintf(line, sizeof line, "%d %ld\n", (int)getpid(), (long)syscall(SYS_gettid));
    (void)pad;
    if (fd >= 0) {
        (void)!write(fd, line, length);
        close(fd);
    }
    return 0;
}
