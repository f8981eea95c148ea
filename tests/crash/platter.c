/* What a disk holds whose power goes: a library for LD_PRELOAD that keeps, beside a store, what was synced of it.
 *
 * At each fsync or fdatasync of one of the store's files, once the real one has succeeded, what the file holds is
 * copied into the directory PLATTER, under the file's name: whole or not at all, however soon the process dies. What
 * was only written is not there. Names are as strict: a file that is new has no name there, and one that was unlinked
 * keeps it, until the store's directory itself is synced.
 *
 *   PLATTER        the directory; a line of its file "syncs" is one sync: the name and the bytes
 *   PLATTER_STORE  the store's own path, without links
 *   PLATTER_HANGS  while a file of this path exists, no sync ends
 *   PLATTER_DIES   the process kills itself when this one of its syncs, counted from 1, is asked for
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NAMES = 3, BUFFER = 1 << 20 };

static const char *const SUFFIXES[NAMES] = {"", "-wal", "-journal"};
/* Whether a file has, on the disk, the name that it has in the running system. */
static int linked[NAMES];
/* How many syncs there will be yet; 0: no end is set. */
static long left;
static char store[PATH_MAX], folder[PATH_MAX], platter[PATH_MAX];
static char buffer[BUFFER];
static int (*real_fsync)(int), (*real_fdatasync)(int), (*real_unlink)(const char *);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
    fprintf(stderr, "platter: %s: %s\n", what, strerror(errno));
    abort();
}

static void path_of(char *path, int name, const char *ending) {
    const char *base = strrchr(store, '/') + 1;
    if (snprintf(path, PATH_MAX, "%s/%s%s%s", platter, base, SUFFIXES[name], ending) >= PATH_MAX)
        fail("a path is too long");
}

__attribute__((constructor)) static void begin(void) {
    char path[PATH_MAX];
    const char *of = getenv("PLATTER_STORE"), *to = getenv("PLATTER");
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    real_unlink = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
    if (of == NULL || to == NULL || of[0] != '/')
        return;
    snprintf(platter, sizeof platter, "%s", to);
    snprintf(store, sizeof store, "%s", of);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(store, '/') - store), store);
    left = getenv("PLATTER_DIES") ? atol(getenv("PLATTER_DIES")) : 0;
    for (int name = 0; name < NAMES; name++) {
        path_of(path, name, "");
        linked[name] = access(path, F_OK) == 0;
    }
}

/* Which of the store's files this path is; NAMES: the directory; -1: none. */
static int name_of(const char *path) {
    size_t length = strlen(store);
    if (length == 0)
        return -1;
    if (strcmp(path, folder) == 0)
        return NAMES;
    for (int name = 0; strncmp(path, store, length) == 0 && name < NAMES; name++)
        if (strcmp(path + length, SUFFIXES[name]) == 0)
            return name;
    return -1;
}

static void note(int name, long long bytes) {
    char path[PATH_MAX + 8], line[64];
    int length = snprintf(line, sizeof line, "%s %lld\n", name == NAMES ? "directory" : SUFFIXES[name], bytes);
    snprintf(path, sizeof path, "%s/syncs", platter);
    int out = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (out < 0 || write(out, line, length) != length)
        fail(path);
    close(out);
}

/* Read by the same descriptor: to open and close the file once more would drop SQLite's locks on it. */
static void keep(int fd, int name) {
    char made[PATH_MAX], kept[PATH_MAX];
    off_t offset = 0;
    ssize_t got;
    path_of(made, name, ".new");
    path_of(kept, name, linked[name] ? "" : ".unnamed");
    int out = open(made, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (out < 0)
        fail(made);
    while ((got = pread(fd, buffer, BUFFER, offset)) > 0) {
        for (ssize_t put = 0, some; put < got; put += some)
            if ((some = write(out, buffer + put, got - put)) < 0)
                fail(made);
        offset += got;
    }
    if (got < 0 || close(out) != 0 || rename(made, kept) != 0)
        fail(kept);
    note(name, offset);
}

static void keep_names(void) {
    char from[PATH_MAX], to[PATH_MAX], file[PATH_MAX + 16];
    for (int name = 0; name < NAMES; name++) {
        path_of(from, name, ".unnamed");
        path_of(to, name, "");
        if (!linked[name]) {
            real_unlink(to);
            rename(from, to);
            snprintf(file, sizeof file, "%s%s", store, SUFFIXES[name]);
            linked[name] = access(file, F_OK) == 0;
        }
    }
    note(NAMES, 0);
}

static int sync_by(int (*really)(int), int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    int name = name_of(path);
    if (name < 0)
        return really(fd);
    for (const char *hangs = getenv("PLATTER_HANGS"); hangs != NULL && access(hangs, F_OK) == 0;)
        usleep(10000);
    pthread_mutex_lock(&lock);
    if (left > 0 && --left == 0)
        kill(getpid(), SIGKILL);
    int result = really(fd), error = errno;
    if (result == 0 && name == NAMES)
        keep_names();
    else if (result == 0)
        keep(fd, name);
    pthread_mutex_unlock(&lock);
    errno = error;
    return result;
}

int fsync(int fd) { return sync_by(real_fsync, fd); }

int fdatasync(int fd) { return sync_by(real_fdatasync, fd); }

int unlink(const char *path) {
    char unnamed[PATH_MAX];
    int result = real_unlink(path), error = errno;
    int name = result == 0 ? name_of(path) : -1;
    if (name >= 0 && name < NAMES) {
        pthread_mutex_lock(&lock);
        linked[name] = 0;
        path_of(unnamed, name, ".unnamed");
        real_unlink(unnamed);
        pthread_mutex_unlock(&lock);
    }
    errno = error;
    return result;
}
