// A component of the world wasi:http/proxy: answers a request with its path. `/spin` never answers, `/trap` traps,
// `/fetch/AUTHORITY` asks another server for `/` and answers with the status that one gave, `denied`
// or `failed`.
#include <stdint.h>

#define IMPORT(module, name) __attribute__((import_module(module), import_name(name)))
#define TYPES "wasi:http/types@0.2.12"
#define HANDLER "wasi:http/outgoing-handler@0.2.12"
#define STREAMS "wasi:io/streams@0.2.12"
#define POLL "wasi:io/poll@0.2.12"

typedef int32_t handle;

IMPORT(TYPES, "[method]incoming-request.path-with-query") void request_path(handle, void *);
IMPORT(TYPES, "[constructor]fields") handle fields_new(void);
IMPORT(TYPES, "[constructor]outgoing-response") handle response_new(handle);
IMPORT(TYPES, "[method]outgoing-response.body") void response_body(handle, void *);
IMPORT(TYPES, "[method]outgoing-body.write") void body_write(handle, void *);
IMPORT(TYPES, "[static]outgoing-body.finish") void body_finish(handle, int32_t, handle, void *);
IMPORT(TYPES, "[static]response-outparam.set")
void outparam_set(handle, int32_t, int32_t, int32_t, int64_t, int32_t, int32_t, int32_t, int32_t);
IMPORT(TYPES, "[constructor]outgoing-request") handle request_new(handle);
IMPORT(TYPES, "[method]outgoing-request.set-authority")
int32_t request_set_authority(handle, int32_t, const char *, int32_t);
IMPORT(TYPES, "[method]outgoing-request.set-path-with-query")
int32_t request_set_path(handle, int32_t, const char *, int32_t);
IMPORT(TYPES, "[method]outgoing-request.set-scheme")
int32_t request_set_scheme(handle, int32_t, int32_t, const char *, int32_t);
IMPORT(TYPES, "[method]future-incoming-response.subscribe") handle future_subscribe(handle);
IMPORT(TYPES, "[method]future-incoming-response.get") void future_get(handle, void *);
IMPORT(TYPES, "[method]incoming-response.status") int32_t response_status(handle);
IMPORT(HANDLER, "handle") void outgoing_handle(handle, int32_t, handle, void *);
IMPORT(POLL, "[method]pollable.block") void pollable_block(handle);
IMPORT(STREAMS, "[method]output-stream.blocking-write-and-flush") void stream_write(handle, const void *, int32_t, void *);
IMPORT(STREAMS, "[resource-drop]output-stream") void stream_drop(handle);

static uint8_t heap[1 << 16];
static uint32_t used;

// What the host hands in; an instance serves one request.
__attribute__((export_name("cabi_realloc"))) void *cabi_realloc(void *old, int32_t old_size, int32_t align, int32_t size) {
    (void)old, (void)old_size;
    used = (used + (uint32_t)align - 1) & ~((uint32_t)align - 1);
    if (used + (uint32_t)size > sizeof heap) __builtin_trap();
    void *at = heap + used;
    used += (uint32_t)size;
    return at;
}

static int starts_with(const char *text, int32_t length, const char *with) {
    for (; *with; text++, with++, length--)
        if (!length || *text != *with) return 0;
    return 1;
}

static void answer(handle out, const char *text, int32_t length) {
    struct {
        uint8_t is_err;
        handle value;
    } body, stream;
    uint64_t ignored[8];
    handle response = response_new(fields_new());
    response_body(response, &body);
    outparam_set(out, 0, response, 0, 0, 0, 0, 0, 0);
    body_write(body.value, &stream);
    stream_write(stream.value, text, length, ignored);
    stream_drop(stream.value);
    body_finish(body.value, 0, 0, ignored);
}

static void fetch(handle out, const char *authority, int32_t length) {
    static const char digits[] = "0123456789";
    handle request = request_new(fields_new());
    request_set_authority(request, 1, authority, length);
    request_set_path(request, 1, "/", 1);
    request_set_scheme(request, 1, 0, 0, 0);
    // result<future, error-code>: an error-code holds a u64 and is aligned as one.
    struct {
        uint8_t is_err;
        _Alignas(8) handle value;
        uint8_t rest[40];
    } future;
    outgoing_handle(request, 0, 0, &future);
    if (future.is_err) return answer(out, "failed", 6);
    pollable_block(future_subscribe(future.value));
    // option<result<result<response, error-code>>>
    struct {
        uint8_t some;
        _Alignas(8) uint8_t outer_err;
        _Alignas(8) uint8_t inner_err;
        _Alignas(8) handle value;
        uint8_t rest[40];
    } got;
    future_get(future.value, &got);
    // The 16th error-code.
    if (got.some && !got.outer_err && got.inner_err && *(uint8_t *)&got.value == 15) return answer(out, "denied", 6);
    if (!got.some || got.outer_err || got.inner_err) return answer(out, "failed", 6);
    int32_t status = response_status(got.value);
    char text[3] = {digits[status / 100 % 10], digits[status / 10 % 10], digits[status % 10]};
    answer(out, text, 3);
}

__attribute__((export_name("wasi:http/incoming-handler@0.2.12#handle"))) void handle_request(handle request, handle out) {
    struct {
        uint8_t some;
        const char *text;
        int32_t length;
    } path;
    request_path(request, &path);
    if (!path.some) path.length = 0;
    if (starts_with(path.text, path.length, "/trap")) __builtin_trap();
    if (starts_with(path.text, path.length, "/spin"))
        for (volatile uint32_t n = 0;; n++) {}
    if (starts_with(path.text, path.length, "/fetch/")) return fetch(out, path.text + 7, path.length - 7);
    answer(out, path.text, path.length);
}
