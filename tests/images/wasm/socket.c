// A component of the world wasi:cli/command that uses sockets: `connect PORT` or `listen PORT`, on 127.0.0.1.
// It succeeds if it may.
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define ENVIRONMENT "wasi:cli/environment@0.2.12"
#define NETWORK "wasi:sockets/instance-network@0.2.12"
#define CREATE "wasi:sockets/tcp-create-socket@0.2.12"
#define TCP "wasi:sockets/tcp@0.2.12"
#define POLL "wasi:io/poll@0.2.12"

typedef int32_t handle;

// ip-socket-address, flat: the case, then what its two records have in common places.
#define ADDRESS                                                                                                        \
    int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t, int32_t
#define LOCALHOST(port) 0, port, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0

IMPORT(ENVIRONMENT, "get-arguments") void get_arguments(void *);
IMPORT(NETWORK, "instance-network") handle instance_network(void);
IMPORT(CREATE, "create-tcp-socket") void create_tcp_socket(int32_t, void *);
IMPORT(TCP, "[method]tcp-socket.start-connect") void start_connect(handle, handle, ADDRESS, void *);
IMPORT(TCP, "[method]tcp-socket.finish-connect") void finish_connect(handle, void *);
IMPORT(TCP, "[method]tcp-socket.start-bind") void start_bind(handle, handle, ADDRESS, void *);
IMPORT(TCP, "[method]tcp-socket.finish-bind") void finish_bind(handle, void *);
IMPORT(TCP, "[method]tcp-socket.start-listen") void start_listen(handle, void *);
IMPORT(TCP, "[method]tcp-socket.finish-listen") void finish_listen(handle, void *);
IMPORT(TCP, "[method]tcp-socket.subscribe") handle subscribe(handle);
IMPORT(POLL, "[method]pollable.block") void pollable_block(handle);

static uint8_t heap[1 << 16];
static uint32_t used;

__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, int32_t old_size, int32_t align, int32_t size) {
    (void)old, (void)old_size;
    used = (used + (uint32_t)align - 1) & ~((uint32_t)align - 1);
    if (used + (uint32_t)size > sizeof heap) __builtin_trap();
    void *at = heap + used;
    used += (uint32_t)size;
    return at;
}

struct string {
    const char *text;
    int32_t length;
};

__attribute__((export_name("wasi:cli/run@0.2.12#run"))) int32_t run(void) {
    struct {
        struct string *items;
        int32_t count;
    } args;
    struct {
        uint8_t is_err;
        handle value[2];
    } result;
    get_arguments(&args);
    if (args.count < 3) return 1;
    int32_t port = 0;
    for (int32_t i = 0; i < args.items[2].length; i++) port = port * 10 + args.items[2].text[i] - '0';
    handle network = instance_network();
    create_tcp_socket(0, &result);
    if (result.is_err) return 1;
    handle socket = result.value[0];
    if (args.items[1].text[0] == 'c') {
        start_connect(socket, network, LOCALHOST(port), &result);
        if (result.is_err) return 1;
        pollable_block(subscribe(socket));
        finish_connect(socket, &result);
        return result.is_err;
    }
    start_bind(socket, network, LOCALHOST(port), &result);
    if (result.is_err) return 1;
    pollable_block(subscribe(socket));
    finish_bind(socket, &result);
    if (result.is_err) return 1;
    start_listen(socket, &result);
    if (result.is_err) return 1;
    pollable_block(subscribe(socket));
    finish_listen(socket, &result);
    return result.is_err;
}
