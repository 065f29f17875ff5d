/* The wall clock of one process, ahead by the seconds that stand in a file: looked at anew each time. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("FAULTS_CLOCK");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *seen = mmap(0, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
    if (seen != MAP_FAILED) ahead = seen;
    close(fd);
}

int clock_gettime(clockid_t which, struct timespec *now) {
    int outcome = (int)syscall(SYS_clock_gettime, which, now);
    if (outcome == 0 && which == CLOCK_REALTIME && ahead) now->tv_sec += *ahead;
    return outcome;
}
