// As much of a shell as the tests' scripts need, for containers in which no process can be started: lists of simple
// commands, `for` and `while`, variables, redirection of output, and a few programs that are built in.
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { WORDS = 64, WORD = 1024 };

static char variable_name[64], variable_value[WORD];
static int status;

static int complain(const char *what) {
    fprintf(stderr, "sh: %s: %s\n", what, strerror(errno));
    return 1;
}

static int print_file(const char *path, FILE *out) {
    FILE *f = fopen(path, "r");
    if (!f) return complain(path);
    char buffer[4096];
    size_t n;
    while ((n = fread(buffer, 1, sizeof buffer, f)) > 0) fwrite(buffer, 1, n, out);
    fclose(f);
    return 0;
}

static int sleep_for(const char *seconds) {
    double s = atof(seconds);
    struct timespec t = {(time_t)s, (long)((s - (double)(time_t)s) * 1e9)};
    return nanosleep(&t, NULL) ? complain("sleep") : 0;
}

// Takes memory, says so, and keeps it.
static int eat(size_t bytes) {
    char *p = malloc(bytes);
    if (!p) return complain("eat");
    memset(p, 'x', bytes);
    puts("eaten");
    fflush(stdout);
    sleep(100);
    return p[bytes / 2] != 'x';
}

static int serve(const char *directory) {
    const char *first = getenv("LISTEN_FDS_START");
    if (!first) {
        fprintf(stderr, "httpd: there is no port to listen on\n");
        return 1;
    }
    for (;;) {
        int c = accept(atoi(first), NULL, NULL);
        if (c < 0) return complain("accept");
        char request[4096], path[WORD * 2], name[WORD] = "/";
        size_t got = 0;
        while (got < sizeof request - 1) {
            ssize_t n = recv(c, request + got, sizeof request - 1 - got, 0);
            if (n <= 0) break;
            got += (size_t)n;
            request[got] = 0;
            if (strstr(request, "\r\n\r\n")) break;
        }
        request[got] = 0;
        sscanf(request, "GET %1000s", name);
        snprintf(path, sizeof path, "%s%s%s", directory, name, name[strlen(name) - 1] == '/' ? "index.html" : "");
        char body[4096] = "";
        FILE *f = fopen(path, "r");
        size_t length = f ? fread(body, 1, sizeof body, f) : 0;
        if (f) fclose(f);
        char head[128];
        int n = snprintf(head, sizeof head, "HTTP/1.0 %s\r\nContent-Length: %zu\r\n\r\n", f ? "200 OK" : "404 Not Found", length);
        send(c, head, (size_t)n, 0);
        send(c, body, length, 0);
        shutdown(c, SHUT_RDWR);
        close(c);
    }
}

static int run(char **w, int n, FILE *out) {
    if (!strcmp(w[0], "exec")) return n > 1 ? run(w + 1, n - 1, out) : 0;
    if (!strcmp(w[0], "!")) return n > 1 ? !run(w + 1, n - 1, out) : 1;
    if (!strcmp(w[0], ":") || !strcmp(w[0], "true") || !strcmp(w[0], "trap")) return 0;
    if (!strcmp(w[0], "false")) return 1;
    if (!strcmp(w[0], "exit")) {
        fflush(NULL);
        exit(n > 1 ? atoi(w[1]) : status);
    }
    if (!strcmp(w[0], "echo") || !strcmp(w[0], "printf")) {
        for (int i = 1; i < n; i++) fprintf(out, i > 1 ? " %s" : "%s", w[i]);
        if (w[0][0] == 'e') fputc('\n', out);
        return 0;
    }
    if (!strcmp(w[0], "sleep") && n > 1) return sleep_for(w[1]);
    if (!strcmp(w[0], "cat") && n > 1) return print_file(w[1], out);
    if (!strcmp(w[0], "seq") && n > 2) {
        for (int i = atoi(w[1]); i <= atoi(w[2]); i++) fprintf(out, "%d\n", i);
        return 0;
    }
    if (!strcmp(w[0], "hostname")) return fprintf(out, "%s\n", getenv("HOSTNAME") ? getenv("HOSTNAME") : ""), 0;
    if (!strcmp(w[0], "touch") && n > 1) {
        int fd = open(w[1], O_WRONLY | O_CREAT, 0600);
        return fd < 0 ? complain(w[1]) : close(fd);
    }
    if (!strcmp(w[0], "test") && n > 2) {
        struct stat st;
        return stat(w[2], &st) != 0;
    }
    if (!strcmp(w[0], "eat") && n > 1) return eat((size_t)atol(w[1]));
    if (!strcmp(w[0], "httpd")) {
        for (int i = 1; i + 1 < n; i++)
            if (!strcmp(w[i], "-h")) return serve(w[i + 1]);
        return serve("/");
    }
    fprintf(stderr, "sh: %s: not found\n", w[0]);
    return 127;
}

// Takes one word; its first byte says whether it was quoted. Ends before ; and &&.
static const char *word(const char *s, char *to, int *quoted) {
    size_t n = 0;
    *quoted = 0;
    while (*s && *s != ' ' && *s != ';' && *s != '\n' && strncmp(s, "&& ", 3) && strncmp(s, "|| ", 3)) {
        if (*s == '\'') {
            *quoted = 1;
            for (s++; *s && *s != '\''; s++)
                if (n < WORD - 1) to[n++] = *s;
            if (*s) s++;
        } else if (*s == '$' && *variable_name && !strncmp(s + 1, variable_name, strlen(variable_name))) {
            for (const char *v = variable_value; *v && n < WORD - 1; v++) to[n++] = *v;
            s += 1 + strlen(variable_name);
        } else if (n < WORD - 1)
            to[n++] = *s++;
        else
            s++;
    }
    to[n] = 0;
    return s;
}

static void script(const char *s, const char *end);

// The `done` that belongs to the loop whose body begins here.
static const char *end_of_loop(const char *s) {
    int depth = 1;
    for (; *s; s++) {
        if (s[-1] != ' ' && s[-1] != '\n' && s[-1] != ';') continue;
        if (!strncmp(s, "for ", 4) || !strncmp(s, "while ", 6)) depth++;
        if (!strncmp(s, "done", 4) && --depth == 0) return s;
    }
    fprintf(stderr, "sh: no done\n");
    exit(2);
}

static const char *loop(const char *s) {
    char kind[WORD], name[WORD], skip[WORD];
    int quoted;
    s = word(s, kind, &quoted);
    const char *list = s, *body = strstr(s, "do ");
    if (!body) exit(2);
    body += 3;
    const char *end = end_of_loop(body);
    if (!strcmp(kind, "while")) {
        for (;;) {
            script(list, body - 3);
            if (status) break;
            script(body, end);
        }
        status = 0;
        return end + 4;
    }
    while (*list == ' ') list++;
    list = word(list, name, &quoted);
    while (*list == ' ') list++;
    list = word(list, skip, &quoted);
    strcpy(variable_name, name);
    for (;;) {
        while (*list == ' ') list++;
        if (*list == ';' || !*list) break;
        char value[WORD];
        list = word(list, value, &quoted);
        strcpy(variable_value, value);
        script(body, end);
    }
    return end + 4;
}

static const char *command(const char *s, const char *end) {
    static char words[WORDS][WORD];
    char *argv[WORDS];
    int n = 0, quoted;
    const char *path = NULL, *mode = NULL;
    char target[WORD];
    FILE *out = stdout;
    while (s < end && *s && *s != ';' && *s != '\n' && strncmp(s, "&& ", 3) && strncmp(s, "|| ", 3)) {
        if (*s == ' ') {
            s++;
            continue;
        }
        s = word(s, words[n], &quoted);
        if (!quoted && !strcmp(words[n], ">&2")) {
            out = stderr;
        } else if (!quoted && (!strcmp(words[n], ">") || !strcmp(words[n], ">>"))) {
            mode = words[n][1] ? "a" : "w";
            while (*s == ' ') s++;
            s = word(s, target, &quoted);
            path = target;
        } else if (n < WORDS - 1)
            argv[n] = words[n], n++;
    }
    if (path && !(out = fopen(path, mode))) {
        status = complain(path);
        return s;
    }
    if (n) status = run(argv, n, out);
    if (path)
        fclose(out);
    else
        fflush(out);
    return s;
}

static void script(const char *s, const char *end) {
    int wanted = 1;
    while (s < end && *s) {
        if (*s == ' ' || *s == ';' || *s == '\n') {
            s++;
        } else if (!strncmp(s, "&& ", 3)) {
            wanted = status == 0;
            s += 3;
        } else if (!strncmp(s, "|| ", 3)) {
            wanted = status != 0;
            s += 3;
        } else if (!strncmp(s, "for ", 4) || !strncmp(s, "while ", 6)) {
            s = loop(s);
        } else if (wanted) {
            s = command(s, end);
        } else {
            char skip[WORD];
            int quoted;
            while (*s && *s != ';' && *s != '\n' && strncmp(s, "&& ", 3) && strncmp(s, "|| ", 3)) {
                if (*s == ' ')
                    s++;
                else
                    s = word(s, skip, &quoted);
            }
            wanted = 1;
        }
        if (*s == ';' || *s == '\n') wanted = 1;
    }
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 3 || strcmp(argv[1], "-c")) {
        fprintf(stderr, "usage: sh -c SCRIPT\n");
        return 2;
    }
    script(argv[2], argv[2] + strlen(argv[2]));
    return status;
}
