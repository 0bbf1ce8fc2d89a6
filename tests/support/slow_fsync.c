/*
 * Preloaded (LD_PRELOAD, ld.so(8)), it makes a disk slow: fsync and fdatasync take SLOW_FSYNC_MS longer, as on an SD
 * card, and do not return as long as the file SLOW_FSYNC_WHILE is there.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static void pass(long milliseconds)
{
    struct timespec left = {milliseconds / 1000, milliseconds % 1000 * 1000000};

    while (nanosleep(&left, &left) != 0)
        ;
}

static void be_slow(void)
{
    const char *milliseconds = getenv("SLOW_FSYNC_MS");
    const char *file = getenv("SLOW_FSYNC_WHILE");

    if (milliseconds != NULL)
        pass(atol(milliseconds));
    while (file != NULL && access(file, F_OK) == 0)
        pass(1);
}

int fsync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");

    be_slow();
    return real(fd);
}

int fdatasync(int fd)
{
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");

    be_slow();
    return real(fd);
}
