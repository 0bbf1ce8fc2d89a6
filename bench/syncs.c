/* LD_PRELOAD: counts fsync and fdatasync, and makes each of them slower, as an SD card does.

   BENCH_SYNCS names a file of 8 bytes at least, in which the count is kept; BENCH_SYNC_DELAY_US is added to each. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static uint64_t own, *count = &own;
static useconds_t delay;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("BENCH_SYNCS"), *microseconds = getenv("BENCH_SYNC_DELAY_US");
    if (microseconds) delay = (useconds_t)atoi(microseconds);
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) count = mapped;
    close(fd);
}

static int counted(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    __atomic_add_fetch(count, 1, __ATOMIC_RELAXED);
    int result = real(fd);
    if (delay) usleep(delay);
    return result;
}

int fsync(int fd) { return counted("fsync", fd); }

int fdatasync(int fd) { return counted("fdatasync", fd); }
