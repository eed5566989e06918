/*
 * record — preloaded into a program, it writes down all that the program does to the files below a directory, in order.
 *
 * LEGER_POWER_ROOT: the directory, without symbolic links. LEGER_POWER_LOG: a file that records are appended to; several
 * processes may share it. LEGER_POWER_SYNC_US: longest pretended time of a sync, in microseconds.
 *
 * A sync of what lies below the directory is recorded and not carried out: what it would have kept is for the replayer
 * to say (scripts/power/disk.ts, which also knows the format of the records). Writes through a mapping are not seen: of
 * those there are none but to SQLite's -shm, which is made anew after a crash.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAX_FDS 65536
#define MAGIC 0x6c67706cu

enum kind { CREATE = 1, WRITE, TRUNCATE, SYNC_BEGIN, SYNC_END, LINK, UNLINK, RENAME, MKDIR, MODE };

/* Followed by `name_bytes` of names (two of them have a NUL between) and `data_bytes` of data. Little-endian. */
struct head {
  uint32_t magic, kind;
  uint64_t inode, dir, other_dir, at;
  uint32_t name_bytes, data_bytes;
};

/* Inode number of what is open below the directory; 0 for all else. */
static uint64_t tracked[MAX_FDS];
static char append_mode[MAX_FDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_bytes;
static int log_fd = -1;
static unsigned sync_us;
static uint64_t syncs;

#define REAL(type, name, ...)                         \
  static type (*real_##name)(__VA_ARGS__);            \
  static void find_##name(void) {                     \
    if (!real_##name) real_##name = dlsym(RTLD_NEXT, #name); \
  }
REAL(int, openat, int, const char *, int, ...)
REAL(int, close, int)
REAL(ssize_t, write, int, const void *, size_t)
REAL(ssize_t, writev, int, const struct iovec *, int)
REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t)
REAL(ssize_t, pwritev64, int, const struct iovec *, int, off64_t)
REAL(int, fsync, int)
REAL(int, fdatasync, int)
REAL(int, ftruncate64, int, off64_t)
REAL(int, renameat, int, const char *, int, const char *)
REAL(int, linkat, int, const char *, int, const char *, int)
REAL(int, unlinkat, int, const char *, int)
REAL(int, mkdirat, int, const char *, mode_t)
REAL(int, fchmodat, int, const char *, mode_t, int)
REAL(int, fchmod, int, mode_t)

__attribute__((constructor)) static void start(void) {
  find_openat(), find_close(), find_write(), find_writev(), find_pwrite64(), find_pwritev64(), find_fsync();
  find_fdatasync(), find_ftruncate64(), find_renameat(), find_linkat(), find_unlinkat(), find_mkdirat();
  find_fchmodat(), find_fchmod();
  const char *directory = getenv("LEGER_POWER_ROOT"), *log = getenv("LEGER_POWER_LOG"), *us = getenv("LEGER_POWER_SYNC_US");
  if (!directory || !log) return;
  root_bytes = strlen(directory);
  if (root_bytes >= sizeof root) _exit(126);
  memcpy(root, directory, root_bytes + 1);
  if (us) sync_us = (unsigned)atoi(us);
  log_fd = real_openat(AT_FDCWD, log, O_WRONLY | O_APPEND | O_CLOEXEC);
  if (log_fd < 0) _exit(126);
}

static void record(struct head head, const char *names, const struct iovec *data, int pieces) {
  struct iovec all[2 + 64];
  head.magic = MAGIC;
  head.data_bytes = 0;
  if (pieces > 64) _exit(126);
  for (int i = 0; i < pieces; i++) {
    head.data_bytes += (uint32_t)data[i].iov_len;
    all[2 + i] = data[i];
  }
  all[0] = (struct iovec){&head, sizeof head};
  all[1] = (struct iovec){(void *)(names ? names : ""), head.name_bytes};
  ssize_t due = (ssize_t)(sizeof head + head.name_bytes + head.data_bytes);
  /* One call, so that records of other processes are not mixed in. A record that is missing would make all else wrong. */
  int kept = errno;
  if (real_writev(log_fd, all, 2 + pieces) != due) _exit(126);
  errno = kept;
}

static int below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t bytes = readlink(link, path, sizeof path - 1);
  if (bytes < (ssize_t)root_bytes || memcmp(path, root, root_bytes)) return 0;
  path[bytes] = 0;
  return path[root_bytes] == '/' || path[root_bytes] == 0;
}

static uint64_t inode_of(int fd) {
  struct stat found;
  int kept = errno;
  uint64_t inode = fstat(fd, &found) || !(S_ISREG(found.st_mode) || S_ISDIR(found.st_mode)) ? 0 : found.st_ino;
  errno = kept;
  return inode;
}

/* The directory that a path is an entry of, 0 where that isn't below ours; and its name in there. */
static uint64_t entry_of(int at, const char *path, char name[NAME_MAX + 1]) {
  if (log_fd < 0) return 0;
  int kept = errno;
  char parent[PATH_MAX];
  size_t bytes = strlen(path);
  uint64_t inode = 0;
  if (bytes == 0 || bytes >= sizeof parent) return 0;
  memcpy(parent, path, bytes + 1);
  while (bytes > 1 && parent[bytes - 1] == '/') parent[--bytes] = 0;
  char *slash = strrchr(parent, '/');
  const char *last = slash ? slash + 1 : parent;
  if (strlen(last) > NAME_MAX) return 0;
  strcpy(name, last);
  if (slash == parent) parent[1] = 0;
  else if (slash) *slash = 0;
  int fd = real_openat(at, slash ? parent : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    if (below(fd)) inode = inode_of(fd);
    real_close(fd);
  }
  errno = kept;
  return inode;
}

static void name_into(struct head *head, const char *name) { head->name_bytes = (uint32_t)strlen(name); }

static int open_recorded(int at, const char *path, int flags, mode_t mode) {
  char name[NAME_MAX + 1];
  struct stat before;
  if (log_fd < 0) return real_openat(at, path, flags, mode);
  pthread_mutex_lock(&lock);
  uint64_t dir = (flags & O_CREAT) ? entry_of(at, path, name) : 0;
  int existed = dir == 0 || fstatat(at, path, &before, 0) == 0;
  int fd = real_openat(at, path, flags, mode);
  int kept = errno;
  if (fd >= 0 && fd < MAX_FDS) {
    tracked[fd] = below(fd) ? inode_of(fd) : 0;
    append_mode[fd] = (flags & O_APPEND) != 0;
    if (tracked[fd] && !existed) {
      struct stat made;
      fstat(fd, &made);
      struct head head = {.kind = CREATE, .inode = made.st_ino, .dir = dir, .at = made.st_mode & 07777};
      name_into(&head, name);
      record(head, name, NULL, 0);
    } else if (tracked[fd] && (flags & O_TRUNC)) {
      record((struct head){.kind = TRUNCATE, .inode = tracked[fd]}, NULL, NULL, 0);
    }
    /* Syncs that no call would show. */
    if (tracked[fd] && (flags & O_DSYNC)) _exit(126);
  }
  pthread_mutex_unlock(&lock);
  errno = kept;
  return fd;
}

#define MODE_OF(flags)                                  \
  mode_t mode = 0;                                      \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {              \
    va_list more;                                       \
    va_start(more, flags);                              \
    mode = va_arg(more, mode_t);                        \
    va_end(more);                                       \
  }

int open(const char *path, int flags, ...) { MODE_OF(flags) return open_recorded(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return open_recorded(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_recorded(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) return open_recorded(at, path, flags, mode); }

int close(int fd) {
  if (fd >= 0 && fd < MAX_FDS && log_fd >= 0) {
    if (fd == log_fd) return 0;
    pthread_mutex_lock(&lock);
    tracked[fd] = 0;
    int result = real_close(fd);
    pthread_mutex_unlock(&lock);
    return result;
  }
  find_close();
  return real_close(fd);
}

/* libuv closes by the system call itself, so that the number may by now be that of something else. */
static int is_tracked(int fd) { return fd >= 0 && fd < MAX_FDS && tracked[fd] != 0 && inode_of(fd) == tracked[fd]; }

static ssize_t write_recorded(int fd, const struct iovec *pieces, int count, off64_t at) {
  pthread_mutex_lock(&lock);
  off64_t where = at;
  if (at < 0) where = append_mode[fd] ? lseek64(fd, 0, SEEK_END) : lseek64(fd, 0, SEEK_CUR);
  ssize_t written = at < 0 ? real_writev(fd, pieces, count) : real_pwritev64(fd, pieces, count, at);
  int kept = errno;
  if (written > 0) {
    struct iovec done[64];
    int used = 0;
    ssize_t left = written;
    if (count > 64) _exit(126);
    for (int i = 0; i < count && left > 0; i++) {
      done[used] = pieces[i];
      if ((ssize_t)done[used].iov_len > left) done[used].iov_len = (size_t)left;
      left -= (ssize_t)done[used++].iov_len;
    }
    record((struct head){.kind = WRITE, .inode = tracked[fd], .at = (uint64_t)where}, NULL, done, used);
  }
  pthread_mutex_unlock(&lock);
  errno = kept;
  return written;
}

ssize_t write(int fd, const void *bytes, size_t count) {
  find_write();
  if (!is_tracked(fd)) return real_write(fd, bytes, count);
  struct iovec piece = {(void *)bytes, count};
  return write_recorded(fd, &piece, 1, -1);
}
ssize_t writev(int fd, const struct iovec *pieces, int count) {
  find_writev();
  return is_tracked(fd) ? write_recorded(fd, pieces, count, -1) : real_writev(fd, pieces, count);
}
ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
  find_pwrite64();
  if (!is_tracked(fd)) return real_pwrite64(fd, bytes, count, at);
  struct iovec piece = {(void *)bytes, count};
  return write_recorded(fd, &piece, 1, at);
}
ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }
ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t at) {
  find_pwritev64();
  return is_tracked(fd) ? write_recorded(fd, pieces, count, at) : real_pwritev64(fd, pieces, count, at);
}
ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t at) { return pwritev64(fd, pieces, count, at); }

int ftruncate64(int fd, off64_t size) {
  find_ftruncate64();
  if (!is_tracked(fd)) return real_ftruncate64(fd, size);
  pthread_mutex_lock(&lock);
  int result = real_ftruncate64(fd, size);
  if (!result) record((struct head){.kind = TRUNCATE, .inode = tracked[fd], .at = (uint64_t)size}, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return result;
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

static int sync_recorded(int fd) {
  pthread_mutex_lock(&lock);
  uint64_t inode = tracked[fd], number = ((uint64_t)getpid() << 24) | (++syncs & 0xffffff);
  unsigned us = sync_us ? (unsigned)((number * 2654435761u >> 8) % sync_us) : 0;
  record((struct head){.kind = SYNC_BEGIN, .inode = inode, .at = number}, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  if (us) usleep(us);
  pthread_mutex_lock(&lock);
  record((struct head){.kind = SYNC_END, .inode = inode, .at = number}, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return 0;
}
int fsync(int fd) {
  find_fsync();
  return is_tracked(fd) ? sync_recorded(fd) : real_fsync(fd);
}
int fdatasync(int fd) {
  find_fdatasync();
  return is_tracked(fd) ? sync_recorded(fd) : real_fdatasync(fd);
}

/* Entries of a directory. What is recorded of a path has to be asked before it changes. */
static uint64_t target_of(int at, const char *path) {
  struct stat found;
  int kept = errno;
  uint64_t inode = fstatat(at, path, &found, AT_SYMLINK_NOFOLLOW) ? 0 : found.st_ino;
  errno = kept;
  return inode;
}

int renameat(int from_at, const char *from, int to_at, const char *to) {
  find_renameat();
  char names[2 * NAME_MAX + 2], name[NAME_MAX + 1], new_name[NAME_MAX + 1];
  pthread_mutex_lock(&lock);
  uint64_t dir = entry_of(from_at, from, name), new_dir = entry_of(to_at, to, new_name), inode = target_of(from_at, from);
  int result = real_renameat(from_at, from, to_at, to);
  if (!result && (dir || new_dir)) {
    struct head head = {.kind = RENAME, .inode = inode, .dir = dir, .other_dir = new_dir};
    size_t first = strlen(name);
    memcpy(names, name, first + 1);
    strcpy(names + first + 1, new_name);
    head.name_bytes = (uint32_t)(first + 1 + strlen(new_name));
    record(head, names, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int rename(const char *from, const char *to) { return renameat(AT_FDCWD, from, AT_FDCWD, to); }
int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  if (flags) { errno = EINVAL; return -1; }
  return renameat(from_at, from, to_at, to);
}

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  find_linkat();
  char name[NAME_MAX + 1];
  pthread_mutex_lock(&lock);
  uint64_t dir = entry_of(to_at, to, name), inode = target_of(from_at, from);
  int result = real_linkat(from_at, from, to_at, to, flags);
  if (!result && dir) {
    struct head head = {.kind = LINK, .inode = inode, .dir = dir};
    name_into(&head, name);
    record(head, name, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int at, const char *path, int flags) {
  find_unlinkat();
  char name[NAME_MAX + 1];
  pthread_mutex_lock(&lock);
  uint64_t dir = entry_of(at, path, name);
  int result = real_unlinkat(at, path, flags);
  if (!result && dir) {
    struct head head = {.kind = UNLINK, .dir = dir};
    name_into(&head, name);
    record(head, name, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
  struct stat found;
  if (lstat(path, &found)) return -1;
  return S_ISDIR(found.st_mode) ? rmdir(path) : unlink(path);
}

int mkdirat(int at, const char *path, mode_t mode) {
  find_mkdirat();
  char name[NAME_MAX + 1];
  pthread_mutex_lock(&lock);
  uint64_t dir = entry_of(at, path, name);
  int result = real_mkdirat(at, path, mode);
  if (!result && dir) {
    struct stat made;
    fstatat(at, path, &made, 0);
    struct head head = {.kind = MKDIR, .inode = made.st_ino, .dir = dir, .at = made.st_mode & 07777};
    name_into(&head, name);
    record(head, name, NULL, 0);
  }
  pthread_mutex_unlock(&lock);
  return result;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int fchmod(int fd, mode_t mode) {
  find_fchmod();
  if (!is_tracked(fd)) return real_fchmod(fd, mode);
  pthread_mutex_lock(&lock);
  int result = real_fchmod(fd, mode);
  if (!result) record((struct head){.kind = MODE, .inode = tracked[fd], .at = mode}, NULL, NULL, 0);
  pthread_mutex_unlock(&lock);
  return result;
}
