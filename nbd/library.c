/*
 * libnbd, loaded when the first connection is made.
 *
 * It brings a TLS library, an XML parser and a dozen more libraries along,
 * which take three times as long to load as all else that a program does before
 * it begins, and half of an idle daemon's memory. So nothing is linked with it:
 * the functions here have the names of those that are used, and hand their
 * calls on. Without a handle only those that stand apart are called. Any
 * thread.
 */
#include <dlfcn.h>
#include <errno.h>
#include <glib.h>
#include <libnbd.h>
#include <string.h>
#include "aio/atomic.h"

#define LIBRARY "libnbd.so.0"

#define HANDED_ON(F)                                                          \
    F(int, nbd_add_meta_context, (struct nbd_handle * h, const char *name),   \
      (h, name))                                                              \
    F(int64_t, nbd_aio_block_status,                                          \
      (struct nbd_handle * h, uint64_t count, uint64_t offset,                \
       nbd_extent_callback extent_callback,                                   \
       nbd_completion_callback completion_callback, uint32_t flags),          \
      (h, count, offset, extent_callback, completion_callback, flags))        \
    F(int, nbd_aio_connect_socket, (struct nbd_handle * h, int sock),         \
      (h, sock))                                                              \
    F(int, nbd_aio_disconnect, (struct nbd_handle * h, uint32_t flags),       \
      (h, flags))                                                             \
    F(int64_t, nbd_aio_flush,                                                 \
      (struct nbd_handle * h, nbd_completion_callback completion_callback,    \
       uint32_t flags),                                                       \
      (h, completion_callback, flags))                                        \
    F(unsigned, nbd_aio_get_direction, (struct nbd_handle * h), (h))          \
    F(int, nbd_aio_get_fd, (struct nbd_handle * h), (h))                      \
    F(int, nbd_aio_is_closed, (struct nbd_handle * h), (h))                   \
    F(int, nbd_aio_is_connecting, (struct nbd_handle * h), (h))               \
    F(int, nbd_aio_is_dead, (struct nbd_handle * h), (h))                     \
    F(int, nbd_aio_is_ready, (struct nbd_handle * h), (h))                    \
    F(int, nbd_aio_notify_read, (struct nbd_handle * h), (h))                 \
    F(int, nbd_aio_notify_write, (struct nbd_handle * h), (h))                \
    F(int, nbd_aio_opt_go,                                                    \
      (struct nbd_handle * h, nbd_completion_callback completion_callback),   \
      (h, completion_callback))                                               \
    F(int64_t, nbd_aio_pread,                                                 \
      (struct nbd_handle * h, void *buf, size_t count, uint64_t offset,       \
       nbd_completion_callback completion_callback, uint32_t flags),          \
      (h, buf, count, offset, completion_callback, flags))                    \
    F(int64_t, nbd_aio_pwrite,                                                \
      (struct nbd_handle * h, const void *buf, size_t count, uint64_t offset, \
       nbd_completion_callback completion_callback, uint32_t flags),          \
      (h, buf, count, offset, completion_callback, flags))                    \
    F(int64_t, nbd_aio_trim,                                                  \
      (struct nbd_handle * h, uint64_t count, uint64_t offset,                \
       nbd_completion_callback completion_callback, uint32_t flags),          \
      (h, count, offset, completion_callback, flags))                         \
    F(int64_t, nbd_aio_zero,                                                  \
      (struct nbd_handle * h, uint64_t count, uint64_t offset,                \
       nbd_completion_callback completion_callback, uint32_t flags),          \
      (h, count, offset, completion_callback, flags))                         \
    F(int, nbd_can_fast_zero, (struct nbd_handle * h), (h))                   \
    F(int, nbd_can_flush, (struct nbd_handle * h), (h))                       \
    F(int, nbd_can_fua, (struct nbd_handle * h), (h))                         \
    F(int, nbd_can_meta_context,                                              \
      (struct nbd_handle * h, const char *metacontext), (h, metacontext))     \
    F(int, nbd_can_trim, (struct nbd_handle * h), (h))                        \
    F(int, nbd_can_zero, (struct nbd_handle * h), (h))                        \
    F(int64_t, nbd_get_block_size, (struct nbd_handle * h, int size_type),    \
      (h, size_type))                                                         \
    F(int64_t, nbd_get_size, (struct nbd_handle * h), (h))                    \
    F(int, nbd_is_read_only, (struct nbd_handle * h), (h))                    \
    F(int, nbd_set_debug, (struct nbd_handle * h, bool debug), (h, debug))    \
    F(int, nbd_set_debug_callback,                                            \
      (struct nbd_handle * h, nbd_debug_callback debug_callback),             \
      (h, debug_callback))                                                    \
    F(int, nbd_set_export_name,                                               \
      (struct nbd_handle * h, const char *export_name), (h, export_name))     \
    F(int, nbd_set_opt_mode, (struct nbd_handle * h, bool enable), (h, enable))
#define OURS_FIRST(F)                              \
    F(struct nbd_handle *, nbd_create, (void), ()) \
    F(int, nbd_get_errno, (void), ())              \
    F(const char *, nbd_get_error, (void), ())     \
    F(void, nbd_close, (struct nbd_handle * h), (h))

#define MEMBER(type, name, params, args) type(*name) params;
static struct {
    HANDED_ON(MEMBER)
    OURS_FIRST(MEMBER)
} real;

static char *load_error; /* NULL: it is there */

static bool find(void *library, const char *name, void *where)
{
    void *symbol = dlsym(library, name);

    memcpy(where, &symbol, sizeof(symbol));
    return symbol;
}

static void load(void)
{
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    bool all = library;

#define FIND(type, name, params, args) \
    all = all && find(library, #name, &real.name);
    HANDED_ON(FIND)
    OURS_FIRST(FIND)
    if (!all) {
        load_error = g_strdup_printf("cannot load libnbd: %s", dlerror());
    }
}

static bool loaded(void)
{
    static gsize once;

    run_once(&once, load);
    return !load_error;
}

struct nbd_handle *nbd_create(void)
{
    return loaded() ? real.nbd_create() : NULL;
}

const char *nbd_get_error(void)
{
    return loaded() ? real.nbd_get_error() : load_error;
}

int nbd_get_errno(void)
{
    return loaded() ? real.nbd_get_errno() : ENOTSUP;
}

void nbd_close(struct nbd_handle *h)
{
    if (h) {
        real.nbd_close(h);
    }
}

#define HAND_ON(type, name, params, args) \
    type name params                      \
    {                                     \
        return real.name args;            \
    }
HANDED_ON(HAND_ON)
