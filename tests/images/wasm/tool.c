// One program for all tests: its first argument says what to do. What fails prints the error's name to stdout and ends
// with code 1.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static int failed(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    return 1;
}

// hello ARGS...: arguments and environment.
static int hello(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
    for (char **e = environ; *e; e++) printf("env %s\n", *e);
    fprintf(stderr, "to stderr\n");
    return 0;
}

static int cat(void) {
    char buffer[4096];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, stdin)) > 0) fwrite(buffer, 1, n, stdout);
    return 0;
}

static int read_file(const char *path) {
    FILE *f = fopen(path, "r");
    if (!f) return failed("read");
    char buffer[4096];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, f)) > 0) fwrite(buffer, 1, n, stdout);
    return ferror(f) ? failed("read") : 0;
}

static int write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    if (!f) return failed("write");
    if (fputs(text, f) == EOF || fclose(f) == EOF) return failed("write");
    return 0;
}

// Every way to change a file or what it is called, one after the other; each must fail on a read-only directory.
static int tamper(const char *dir) {
    char file[256], other[256], back[256];
    snprintf(file, sizeof file, "%s/file", dir);
    snprintf(other, sizeof other, "%s/other", dir);
    snprintf(back, sizeof back, "/rw/stolen");
    int done = 0;
#define TRY(name, expression)                                                                                          \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        if ((expression) >= 0) {                                                                                       \
            printf("%s worked\n", name);                                                                               \
            done++;                                                                                                    \
        } else                                                                                                         \
            printf("%s: %s\n", name, strerror(errno));                                                                 \
    } while (0)
    struct timespec times[2] = {{1, 0}, {1, 0}};
    TRY("open for writing", open(file, O_WRONLY));
    TRY("open for reading and writing", open(file, O_RDWR));
    TRY("open and truncate", open(file, O_RDONLY | O_TRUNC));
    TRY("open and append", open(file, O_WRONLY | O_APPEND));
    TRY("create", open(other, O_RDONLY | O_CREAT, 0600));
    TRY("create exclusively", open(other, O_WRONLY | O_CREAT | O_EXCL, 0600));
    TRY("open directory and create", open(dir, O_DIRECTORY | O_CREAT, 0600));
    int fd = open(file, O_RDONLY);
    TRY("ftruncate", ftruncate(fd, 0));
    TRY("write", write(fd, "x", 1));
    TRY("futimens", futimens(fd, times));
    TRY("allocate", -posix_fallocate(fd, 0, 100000));
    TRY("truncate", ({ int w = open(file, O_WRONLY | O_TRUNC); w; }));
    TRY("utimensat", utimensat(AT_FDCWD, file, times, 0));
    TRY("rename within", rename(file, other));
    TRY("rename out", rename(file, back));
    TRY("link within", link(file, other));
    TRY("link out", link(file, back));
    TRY("link in", link("/rw/mine", other));
    TRY("rename in", rename("/rw/mine", other));
    TRY("symlink", symlink("file", other));
    TRY("unlink", unlink(file));
    TRY("mkdir", mkdir(other, 0700));
    TRY("rmdir", rmdir(dir));
    return done;
}

// escape PATHS...: prints what it can read.
static int escape(int argc, char **argv) {
    int done = 0;
    for (int i = 0; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY);
        if (fd < 0) {
            printf("%s: %s\n", argv[i], strerror(errno));
            continue;
        }
        char buffer[64] = {0};
        read(fd, buffer, sizeof buffer - 1);
        printf("%s worked: %s\n", argv[i], buffer);
        done++;
    }
    return done;
}

static int list(const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return failed("list");
    struct dirent *entry;
    while ((entry = readdir(dir))) printf("%s\n", entry->d_name);
    return 0;
}

static int first_socket(void) {
    const char *start = getenv("LISTEN_FDS_START");
    return start ? atoi(start) : -1;
}

// Answers one connection after the other with what it says, until one says "quit".
static int serve(int polling) {
    int listener = first_socket();
    for (;;) {
        if (polling) {
            struct pollfd p = {.fd = listener, .events = POLLIN};
            if (poll(&p, 1, -1) != 1) return failed("poll");
        }
        int c = accept(listener, NULL, NULL);
        if (c < 0) return failed("accept");
        char buffer[256];
        ssize_t n;
        if (polling) {
            struct pollfd p = {.fd = c, .events = POLLIN};
            if (poll(&p, 1, 10000) != 1) return failed("poll");
        }
        while ((n = recv(c, buffer, sizeof buffer, 0)) > 0) {
            if (n >= 4 && !memcmp(buffer, "quit", 4)) return 0;
            if (send(c, buffer, (size_t)n, 0) != n) return failed("send");
        }
        shutdown(c, SHUT_RDWR);
        close(c);
    }
}

static int spin(void) {
    volatile uint64_t n = 0;
    for (;;) n++;
}

// Takes memory, a mebibyte at a time, and writes to all of it.
static int hog(void) {
    size_t total = 0;
    for (;;) {
        // volatile: what is written and never read is not allocated by a compiler that can help it.
        volatile char *p = malloc(1 << 20);
        if (!p) return failed("malloc");
        for (size_t i = 0; i < 1 << 20; i += 4096) p[i] = 1;
        total++;
        if (total % 16 == 0) {
            printf("%zu\n", total);
            fflush(stdout);
        }
    }
}

static int recurse(volatile int depth) {
    return depth < 0 ? 0 : recurse(depth + 1) + depth;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *what = argc > 1 ? argv[1] : "hello";
    if (!strcmp(what, "hello")) return hello(argc, argv);
    if (!strcmp(what, "exit")) return atoi(argv[2]);
    if (!strcmp(what, "cat")) return cat();
    if (!strcmp(what, "read")) return read_file(argv[2]);
    if (!strcmp(what, "write")) return write_file(argv[2], argv[3]);
    if (!strcmp(what, "tamper")) return tamper(argv[2]);
    if (!strcmp(what, "escape")) return escape(argc - 2, argv + 2);
    if (!strcmp(what, "list")) return list(argv[2]);
    if (!strcmp(what, "symlink")) return symlink(argv[2], argv[3]) ? failed("symlink") : 0;
    if (!strcmp(what, "serve")) return serve(0);
    if (!strcmp(what, "serve-polling")) return serve(1);
    if (!strcmp(what, "spin")) return spin();
    if (!strcmp(what, "hog")) return hog();
    if (!strcmp(what, "recurse")) return recurse(0);
    if (!strcmp(what, "abort")) abort();
    if (!strcmp(what, "sleep")) return puts("sleeping"), sleep((unsigned)atoi(argv[2])), 0;
    if (!strcmp(what, "flood")) for (;;) puts("0123456789012345678901234567890123456789012345678901234567890123456789");
    return 2;
}
