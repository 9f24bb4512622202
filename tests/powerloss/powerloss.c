/* A layer between a program and its disk, for LD_PRELOAD: it writes down every change of the files below one
 * directory, and what the program was told about each sync. From that journal disk.py makes the disk as a power loss at
 * that moment could have left it. It also makes a disk fail, fill up, get slow, or lie. README.md says why it is done
 * this way and what it does not see.
 *
 *   POWERLOSS_DIR      the directory, without symbolic links in its path
 *   POWERLOSS_JOURNAL  the journal, a file outside of it; appended to
 *   POWERLOSS_CONTROL  a directory outside of it; these files in it change what the disk does, from the next call on:
 *     eio        syncs fail with EIO. Empty: all of them. With a number N: the Nth sync from now, and no other.
 *     enospc     nothing can grow and nothing can be created: ENOSPC
 *     erofs      nothing can be changed: EROFS
 *     slow_ms    a sync takes this many milliseconds more
 *     lie        syncs do nothing, and say that all is well
 *
 * A record is a header and `length` bytes: data, or one or two paths relative to the directory with a NUL behind each.
 * One mutex makes the order of the records that of the changes. A change is written down before it is made, so a killed
 * process leaves at most one record whose change is missing or incomplete: the last. (Only a file's creation is written
 * down after it, because its inode is known then.)
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

_Static_assert(sizeof(long) == 8, "offsets are handed over in one register");

enum op {
  OP_CREATE = 1,   /* file, offset: its mode; path */
  OP_WRITE,        /* file, offset, data */
  OP_FAILED,       /* the last record was a write that only took `offset` bytes, or, with -1, a change that failed */
  OP_TRUNCATE,     /* file, offset: the new size */
  OP_SYNC_BEGIN,   /* file, offset: a number for this sync */
  OP_SYNC_END,     /* file, offset: the same number. The caller will be told that it is durable */
  OP_SYNC_FAILED,  /* file, offset: the same number */
  OP_DIR_SYNC,     /* path */
  OP_RENAME,       /* path, path */
  OP_UNLINK,       /* path */
  OP_LINK,         /* path, path */
  OP_MKDIR,        /* path */
  OP_RMDIR,        /* path */
  OP_MAPPED,       /* file, path: writable shared mapping: changes that are not seen */
};

struct record {
  uint32_t magic;
  uint32_t op;
  uint64_t file;   /* inode number */
  int64_t offset;
  uint64_t length; /* bytes that follow */
};
#define MAGIC 0x484c4450u

#define PUBLIC __attribute__((visibility("default")))

static char directory[PATH_MAX];
static size_t directory_length;
static char control[PATH_MAX];
static int journal = -1;
static dev_t device;
static uint64_t syncs;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Inodes of regular files that were opened below the directory. */
static uint64_t tracked[4096];
static size_t tracked_count;

static void give_up(const char *what) {
  dprintf(2, "powerloss: %s: %s\n", what, strerror(errno));
  _exit(111);
}

/* A child begins with the lock free. */
static void take_lock(void) { pthread_mutex_lock(&lock); }
static void free_lock(void) { pthread_mutex_unlock(&lock); }

__attribute__((constructor)) static void start(void) {
  const char *dir = getenv("POWERLOSS_DIR"), *path = getenv("POWERLOSS_JOURNAL"), *flags = getenv("POWERLOSS_CONTROL");
  if (!dir || !*dir || !path || !*path)
    return;
  directory_length = (size_t)snprintf(directory, sizeof directory, "%s", dir);
  snprintf(control, sizeof control, "%s", flags ? flags : "");
  struct stat status;
  if (stat(directory, &status) != 0)
    give_up(directory);
  device = status.st_dev;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0)
    give_up(path);
  /* High, so that no program meets it where it expects its own first descriptors. */
  journal = fcntl(fd, F_DUPFD_CLOEXEC, 512);
  syscall(SYS_close, fd);
  if (journal < 0)
    give_up("no descriptor for the journal");
  pthread_atfork(take_lock, free_lock, free_lock);
}

/* ---- the journal ---- */

static void append(enum op op, uint64_t file, int64_t offset, const struct iovec *parts, int count) {
  struct iovec all[IOV_MAX > 64 ? 64 : IOV_MAX];
  struct record header = {MAGIC, op, file, offset, 0};
  all[0] = (struct iovec){&header, sizeof header};
  for (int i = 0; i < count; i++) {
    all[i + 1] = parts[i];
    header.length += parts[i].iov_len;
  }
  ssize_t wanted = (ssize_t)(sizeof header + header.length);
  if (syscall(SYS_writev, journal, all, count + 1) != wanted)
    give_up("the journal");
}

static void append_paths(enum op op, uint64_t file, int64_t offset, const char *first, const char *second) {
  struct iovec parts[2] = {{(void *)first, strlen(first) + 1}, {(void *)second, second ? strlen(second) + 1 : 0}};
  append(op, file, offset, parts, second ? 2 : 1);
}

/* ---- which files ---- */

/* The path below the directory, or NULL where it is elsewhere. The last component need not exist. */
static const char *below(int at, const char *path, char *room) {
  if (journal < 0 || !path || !*path)
    return NULL;
  char whole[PATH_MAX * 2], parent[PATH_MAX];
  if (path[0] == '/') {
    snprintf(whole, sizeof whole, "%s", path);
  } else {
    char link[64], base[PATH_MAX];
    snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
    if (n < 0)
      return NULL;
    base[n] = 0;
    snprintf(whole, sizeof whole, "%s/%s", base, path);
  }
  size_t length = strlen(whole);
  while (length > 1 && whole[length - 1] == '/')
    whole[--length] = 0;
  char *slash = strrchr(whole, '/');
  const char *last = slash + 1;
  *slash = 0;
  int saved = errno;
  char *resolved = realpath(*whole ? whole : "/", parent);
  errno = saved;
  if (!resolved)
    return NULL;
  if (snprintf(room, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", last) >= PATH_MAX)
    return NULL;
  if (strncmp(room, directory, directory_length) != 0)
    return NULL;
  if (room[directory_length] == 0)
    return ".";
  return room[directory_length] == '/' ? room + directory_length + 1 : NULL;
}

static int is_shared_memory(const char *path) {
  size_t length = strlen(path);
  return length > 4 && !strcmp(path + length - 4, "-shm");
}

static int is_tracked(uint64_t file) {
  for (size_t i = tracked_count; i-- > 0;)
    if (tracked[i] == file)
      return 1;
  return 0;
}

static void track(uint64_t file) {
  if (is_tracked(file))
    return;
  if (tracked_count == sizeof tracked / sizeof *tracked)
    give_up("more files than it has room for");
  tracked[tracked_count++] = file;
}

static void forget(uint64_t file) {
  for (size_t i = 0; i < tracked_count; i++)
    if (tracked[i] == file)
      tracked[i] = tracked[--tracked_count];
}

/* Whether a descriptor is one of the files; the caller holds the lock. */
static int ours(int fd, struct stat *status) {
  if (journal < 0 || !tracked_count)
    return 0;
  int saved = errno;
  int is = fstat(fd, status) == 0 && S_ISREG(status->st_mode) && status->st_dev == device && is_tracked(status->st_ino);
  errno = saved;
  return is;
}

/* ---- what the disk is told to do ---- */

static int flag(const char *name, char *text, size_t size) {
  if (!*control)
    return 0;
  char path[PATH_MAX + 32];
  snprintf(path, sizeof path, "%s/%s", control, name);
  int saved = errno;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (fd >= 0) {
    ssize_t n = syscall(SYS_read, fd, text, size - 1);
    text[n > 0 ? n : 0] = 0;
    syscall(SYS_close, fd);
  }
  errno = saved;
  return fd >= 0;
}

static int is_set(const char *name) {
  char text[32];
  return flag(name, text, sizeof text);
}

/* Whether this sync fails. Counts down a number in `eio`; the caller holds the lock. */
static int sync_fails(void) {
  char text[32];
  if (!flag("eio", text, sizeof text))
    return 0;
  long left = atol(text);
  if (left == 0 && text[0] == 0)
    return 1;
  if (left <= 0)
    return 0;
  char path[PATH_MAX + 32];
  snprintf(path, sizeof path, "%s/eio", control);
  int fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0);
  // In one write of the same length: a process that is killed must not leave an empty file, which says that all fail.
  int n = snprintf(text, sizeof text, "%-*ld", (int)strlen(text), left - 1);
  if (fd < 0 || syscall(SYS_write, fd, text, n) != n)
    give_up(path);
  syscall(SYS_close, fd);
  return left == 1;
}

/* ---- data ---- */

static size_t sum(const struct iovec *parts, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++)
    bytes += parts[i].iov_len;
  return bytes;
}

/* All kinds of writes. `offset` is -1 where the descriptor's own position counts. */
static ssize_t write_parts(int fd, const struct iovec *parts, int count, int64_t offset) {
  struct stat status;
  pthread_mutex_lock(&lock);
  int is_ours = ours(fd, &status);
  if (is_ours) {
    int flags = fcntl(fd, F_GETFL);
    int64_t at = flags & O_APPEND ? status.st_size : offset >= 0 ? offset : syscall(SYS_lseek, fd, 0, SEEK_CUR);
    int problem = is_set("erofs") ? EROFS : is_set("enospc") && at + (int64_t)sum(parts, count) > status.st_size ? ENOSPC : 0;
    if (problem) {
      pthread_mutex_unlock(&lock);
      errno = problem;
      return -1;
    }
    if (count > 60)
      count = 60; /* a short write, as any system may do */
    append(OP_WRITE, status.st_ino, at, parts, count);
  } else {
    pthread_mutex_unlock(&lock); /* a pipe or a socket may keep its writer waiting */
  }
  ssize_t done = offset < 0 ? syscall(SYS_writev, fd, parts, count)
                            : syscall(SYS_pwritev, fd, parts, count, (long)offset, 0L);
  if (is_ours) {
    int saved = errno;
    if (done != (ssize_t)sum(parts, count))
      append(OP_FAILED, status.st_ino, done, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = saved;
  }
  return done;
}

PUBLIC ssize_t write(int fd, const void *data, size_t bytes) {
  struct iovec part = {(void *)data, bytes};
  return write_parts(fd, &part, 1, -1);
}

PUBLIC ssize_t writev(int fd, const struct iovec *parts, int count) { return write_parts(fd, parts, count, -1); }

PUBLIC ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
  struct iovec part = {(void *)data, bytes};
  if (offset < 0) {
    errno = EINVAL;
    return -1;
  }
  return write_parts(fd, &part, 1, offset);
}

PUBLIC ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
  if (offset < 0) {
    errno = EINVAL;
    return -1;
  }
  return write_parts(fd, parts, count, offset);
}

PUBLIC ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  struct stat status;
  if (flags && ours(fd, &status)) {
    errno = EOPNOTSUPP;
    return -1;
  }
  if (flags)
    return syscall(SYS_pwritev2, fd, parts, count, (long)offset, 0L, flags);
  return write_parts(fd, parts, count, offset);
}

PUBLIC ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset) { return pwrite(fd, data, bytes, offset); }
PUBLIC ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return pwritev(fd, parts, count, offset); }
PUBLIC ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) { return pwritev2(fd, parts, count, offset, flags); }

/* A size that is set: by ftruncate, or upwards by an allocation. */
static int set_size(int fd, int64_t size, int only_up, int mode, int64_t from) {
  struct stat status;
  pthread_mutex_lock(&lock);
  int is_ours = ours(fd, &status);
  int result;
  if (is_ours && is_set("erofs")) {
    errno = EROFS;
    result = -1;
  } else if (is_ours && is_set("enospc") && size > status.st_size) {
    errno = ENOSPC;
    result = -1;
  } else {
    if (is_ours && (!only_up || size > status.st_size))
      append(OP_TRUNCATE, status.st_ino, size, NULL, 0);
    result = only_up ? (int)syscall(SYS_fallocate, fd, mode, (long)from, (long)(size - from)) : (int)syscall(SYS_ftruncate, fd, (long)size);
    if (result != 0 && is_ours) {
      int saved = errno;
      if (!only_up || size > status.st_size)
        append(OP_FAILED, status.st_ino, -1, NULL, 0);
      errno = saved;
    }
  }
  pthread_mutex_unlock(&lock);
  return result;
}

PUBLIC int ftruncate(int fd, off_t size) { return set_size(fd, size, 0, 0, 0); }
PUBLIC int ftruncate64(int fd, off64_t size) { return set_size(fd, size, 0, 0, 0); }

PUBLIC int fallocate(int fd, int mode, off_t offset, off_t bytes) {
  struct stat status;
  if (mode && ours(fd, &status)) { /* holes and the like: the caller has another way */
    errno = EOPNOTSUPP;
    return -1;
  }
  return mode ? (int)syscall(SYS_fallocate, fd, mode, (long)offset, (long)bytes) : set_size(fd, offset + bytes, 1, 0, offset);
}
PUBLIC int fallocate64(int fd, int mode, off64_t offset, off64_t bytes) { return fallocate(fd, mode, offset, bytes); }
PUBLIC int posix_fallocate(int fd, off_t offset, off_t bytes) { return fallocate(fd, 0, offset, bytes) == 0 ? 0 : errno; }
PUBLIC int posix_fallocate64(int fd, off64_t offset, off64_t bytes) { return posix_fallocate(fd, offset, bytes); }

PUBLIC int open(const char *path, int flags, ...);

PUBLIC int truncate(const char *path, off_t size) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0)
    return -1;
  int result = ftruncate(fd, size), saved = errno;
  syscall(SYS_close, fd);
  errno = saved;
  return result;
}
PUBLIC int truncate64(const char *path, off64_t size) { return truncate(path, size); }

/* Data that goes from file to file inside the kernel: refused for ours, callers then copy it themselves. */
PUBLIC ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t bytes, unsigned flags) {
  struct stat status;
  pthread_mutex_lock(&lock);
  int is_ours = ours(to, &status);
  pthread_mutex_unlock(&lock);
  if (is_ours) {
    errno = ENOSYS;
    return -1;
  }
  return syscall(SYS_copy_file_range, from, from_at, to, to_at, bytes, flags);
}

PUBLIC ssize_t sendfile(int to, int from, off_t *at, size_t bytes) {
  struct stat status;
  pthread_mutex_lock(&lock);
  int is_ours = ours(to, &status);
  pthread_mutex_unlock(&lock);
  if (is_ours) {
    errno = EINVAL;
    return -1;
  }
  return syscall(SYS_sendfile, to, from, at, bytes);
}
PUBLIC ssize_t sendfile64(int to, int from, off64_t *at, size_t bytes) { return sendfile(to, from, at, bytes); }

PUBLIC void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset) {
  struct stat status;
  if (journal >= 0 && fd >= 0 && (flags & MAP_TYPE) != MAP_PRIVATE && (protection & PROT_WRITE)) {
    pthread_mutex_lock(&lock);
    if (ours(fd, &status)) {
      char link[64], path[PATH_MAX];
      snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
      ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
      path[n > 0 ? n : 0] = 0;
      append_paths(OP_MAPPED, status.st_ino, 0, path, NULL);
    }
    pthread_mutex_unlock(&lock);
  }
  return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, (long)offset);
}
PUBLIC void *mmap64(void *address, size_t bytes, int protection, int flags, int fd, off64_t offset) {
  return mmap(address, bytes, protection, flags, fd, offset);
}

/* ---- syncs ---- */

static void be_slow(void) {
  char text[32];
  long ms = flag("slow_ms", text, sizeof text) ? atol(text) : 0;
  if (ms > 0) {
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
      ;
  }
}

/* Only what was written before a sync began is durable when it ends. */
static int sync_file(int fd, long how) {
  struct stat status;
  char link[64], path[PATH_MAX], room[PATH_MAX];
  const char *name = NULL;
  if (journal < 0 || fstat(fd, &status) != 0)
    return (int)syscall(how, fd);
  pthread_mutex_lock(&lock);
  int is_ours = ours(fd, &status);
  if (!is_ours && S_ISDIR(status.st_mode)) {
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    name = below(AT_FDCWD, path, room);
  }
  if (!is_ours && !name) {
    pthread_mutex_unlock(&lock);
    return (int)syscall(how, fd);
  }
  int fails = sync_fails(), lies = is_set("lie");
  int64_t number = (int64_t)((uint64_t)getpid() << 32 | ++syncs);
  if (!lies && is_ours)
    append(OP_SYNC_BEGIN, status.st_ino, number, NULL, 0);
  pthread_mutex_unlock(&lock);

  be_slow();
  int result = lies || fails ? 0 : (int)syscall(how, fd);
  if (fails) {
    errno = EIO;
    result = -1;
  }

  int saved = errno;
  pthread_mutex_lock(&lock);
  if (!lies && is_ours)
    append(result == 0 ? OP_SYNC_END : OP_SYNC_FAILED, status.st_ino, number, NULL, 0);
  else if (!lies && result == 0)
    append_paths(OP_DIR_SYNC, status.st_ino, 0, name, NULL);
  pthread_mutex_unlock(&lock);
  errno = saved;
  return result;
}

PUBLIC int fsync(int fd) { return sync_file(fd, SYS_fsync); }
PUBLIC int fdatasync(int fd) { return sync_file(fd, SYS_fdatasync); }

/* ---- names ---- */

static int forbidden(int creates) {
  if (is_set("erofs")) {
    errno = EROFS;
    return 1;
  }
  if (creates && is_set("enospc")) {
    errno = ENOSPC;
    return 1;
  }
  return 0;
}

static int open_at(int at, const char *path, int flags, mode_t mode) {
  char room[PATH_MAX];
  const char *name = below(at, path, room);
  if (!name || flags & O_DIRECTORY || flags & O_PATH) {
    int fd = (int)syscall(SYS_openat, at, path, flags, mode);
    struct stat status;
    if (fd >= 0 && journal >= 0 && !name && (flags & O_ACCMODE) != O_RDONLY) {
      /* The inode of a file of ours that is gone may be somebody else's now. */
      pthread_mutex_lock(&lock);
      if (ours(fd, &status))
        forget(status.st_ino);
      pthread_mutex_unlock(&lock);
    }
    return fd;
  }
  struct stat status;
  pthread_mutex_lock(&lock);
  int saved = errno;
  int is_there = fstatat(at, path, &status, 0) == 0;
  int64_t size = is_there ? status.st_size : 0;
  int will_create = !is_there && flags & O_CREAT, will_change = (flags & O_ACCMODE) != O_RDONLY || will_create || flags & O_TRUNC;
  errno = saved;
  int fd = -1;
  if (!(will_change && (is_there ? S_ISREG(status.st_mode) : will_create) && forbidden(will_create)))
    fd = (int)syscall(SYS_openat, at, path, flags & ~O_TRUNC, mode);
  saved = errno;
  if (fd >= 0 && is_shared_memory(name)) {
    if (ours(fd, &status))
      forget(status.st_ino);
  } else if (fd >= 0 && fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) {
    track(status.st_ino);
    if (will_create)
      append_paths(OP_CREATE, status.st_ino, status.st_mode & 07777, name, NULL);
    else if (flags & O_TRUNC && size > 0)
      append(OP_TRUNCATE, status.st_ino, 0, NULL, 0);
  }
  if (fd >= 0 && flags & O_TRUNC)
    syscall(SYS_ftruncate, fd, 0L);
  pthread_mutex_unlock(&lock);
  errno = saved;
  return fd;
}

#define MODE_OF(flags)                          \
  mode_t mode = 0;                              \
  if ((flags) & (O_CREAT | __O_TMPFILE)) {      \
    va_list rest;                               \
    va_start(rest, flags);                      \
    mode = va_arg(rest, mode_t);                \
    va_end(rest);                               \
  }

PUBLIC int open(const char *path, int flags, ...) {
  MODE_OF(flags)
  return open_at(AT_FDCWD, path, flags, mode);
}
PUBLIC int open64(const char *path, int flags, ...) {
  MODE_OF(flags)
  return open_at(AT_FDCWD, path, flags, mode);
}
PUBLIC int openat(int at, const char *path, int flags, ...) {
  MODE_OF(flags)
  return open_at(at, path, flags, mode);
}
PUBLIC int openat64(int at, const char *path, int flags, ...) {
  MODE_OF(flags)
  return open_at(at, path, flags, mode);
}
PUBLIC int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
PUBLIC int creat64(const char *path, mode_t mode) { return creat(path, mode); }
PUBLIC int __open_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
PUBLIC int __open64_2(const char *path, int flags) { return open_at(AT_FDCWD, path, flags, 0); }
PUBLIC int __openat_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }
PUBLIC int __openat64_2(int at, const char *path, int flags) { return open_at(at, path, flags, 0); }

/* One change of names. */
#define NAMES(name, creates, call, record)  \
  pthread_mutex_lock(&lock);                \
  int result = -1;                          \
  if (!(name)) {                            \
    result = (int)(call);                   \
  } else if (!forbidden(creates)) {         \
    record;                                 \
    result = (int)(call);                   \
    int saved = errno;                      \
    if (result != 0)                        \
      append(OP_FAILED, 0, -1, NULL, 0);    \
    errno = saved;                          \
  }                                         \
  pthread_mutex_unlock(&lock);              \
  return result;

PUBLIC int renameat2(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
  char from_room[PATH_MAX], to_room[PATH_MAX];
  const char *a = below(from_at, from, from_room), *b = below(to_at, to, to_room);
  if ((a != NULL) != (b != NULL) || (a && flags & ~(unsigned)RENAME_NOREPLACE)) {
    errno = EXDEV; /* across the border: the caller copies */
    return -1;
  }
  NAMES(a, 0, syscall(SYS_renameat2, from_at, from, to_at, to, flags), append_paths(OP_RENAME, 0, 0, a, b))
}
PUBLIC int rename(const char *from, const char *to) { return renameat2(AT_FDCWD, from, AT_FDCWD, to, 0); }
PUBLIC int renameat(int from_at, const char *from, int to_at, const char *to) { return renameat2(from_at, from, to_at, to, 0); }

PUBLIC int unlinkat(int at, const char *path, int flags) {
  char room[PATH_MAX];
  const char *name = below(at, path, room);
  NAMES(name, 0, syscall(SYS_unlinkat, at, path, flags), append_paths(flags & AT_REMOVEDIR ? OP_RMDIR : OP_UNLINK, 0, 0, name, NULL))
}
PUBLIC int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
PUBLIC int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
PUBLIC int remove(const char *path) {
  int result = unlinkat(AT_FDCWD, path, 0);
  return result != 0 && errno == EISDIR ? unlinkat(AT_FDCWD, path, AT_REMOVEDIR) : result;
}

PUBLIC int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
  char from_room[PATH_MAX], to_room[PATH_MAX];
  const char *a = below(from_at, from, from_room), *b = below(to_at, to, to_room);
  if ((a != NULL) != (b != NULL)) {
    errno = EXDEV;
    return -1;
  }
  NAMES(a, 1, syscall(SYS_linkat, from_at, from, to_at, to, flags), append_paths(OP_LINK, 0, 0, a, b))
}
PUBLIC int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

PUBLIC int mkdirat(int at, const char *path, mode_t mode) {
  char room[PATH_MAX];
  const char *name = below(at, path, room);
  NAMES(name, 1, syscall(SYS_mkdirat, at, path, mode), append_paths(OP_MKDIR, 0, 0, name, NULL))
}
PUBLIC int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
