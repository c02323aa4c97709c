/* Faults of disks and clocks for one process: preloaded into a node by `cargo xtask chaos`, which steers
 * it through a file of six little-endian words that both have mapped. Without the file, or with zeroes in
 * it, every call goes through unchanged. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct control {
  volatile int64_t sync_errno;       /* fsync and fdatasync fail with it */
  volatile int64_t sync_delay_ms;    /* and take this much longer */
  volatile int64_t write_errno;      /* writes to regular files fail with it */
  volatile int64_t realtime_shift_ms;/* added to the wall clock */
  volatile int64_t syncs;            /* counted here: shows that the preload works */
  volatile int64_t failed;           /* calls that were made to fail */
};

static struct control *control;

__attribute__((constructor)) static void attach(void) {
  const char *path = getenv("RIVVEN_FAULTS");
  if (!path) return;
  int fd = open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  void *at = mmap(0, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (at != MAP_FAILED) control = at;
}

/* The function that this one stands in for. */
#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int faulty(volatile int64_t *which) {
  if (!control || !*which) return 0;
  __sync_fetch_and_add(&control->failed, 1);
  errno = (int)*which;
  return 1;
}

static int before_sync(void) {
  if (!control) return 0;
  __sync_fetch_and_add(&control->syncs, 1);
  int64_t delay = control->sync_delay_ms;
  if (delay > 0) {
    struct timespec pause = {delay / 1000, (delay % 1000) * 1000000};
    nanosleep(&pause, 0);
  }
  return faulty(&control->sync_errno);
}

int fsync(int fd) {
  REAL(fsync);
  return before_sync() ? -1 : real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  return before_sync() ? -1 : real(fd);
}

static int bad_write(int fd) {
  struct stat st;
  if (!control || !control->write_errno) return 0;
  /* Not the node's own log. */
  if (fd <= 2 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) return 0;
  return faulty(&control->write_errno);
}

ssize_t write(int fd, const void *data, size_t n) {
  REAL(write);
  return bad_write(fd) ? -1 : real(fd, data, n);
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at) {
  REAL(pwrite64);
  return bad_write(fd) ? -1 : real(fd, data, n, at);
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
  REAL(writev);
  return bad_write(fd) ? -1 : real(fd, parts, n);
}

int clock_gettime(clockid_t id, struct timespec *t) {
  REAL(clock_gettime);
  int result = real(id, t);
  if (result == 0 && control && control->realtime_shift_ms && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
    int64_t shift = control->realtime_shift_ms;
    int64_t nanos = t->tv_nsec + (shift % 1000) * 1000000;
    t->tv_sec += shift / 1000;
    if (nanos < 0) { nanos += 1000000000; t->tv_sec -= 1; }
    if (nanos >= 1000000000) { nanos -= 1000000000; t->tv_sec += 1; }
    t->tv_nsec = nanos;
  }
  return result;
}
