/*
 * The disk of mem_disk.h.
 */
#include "mem_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "block/node_int.h"
#include "util/error.h"

struct mem_disk *mem_disk_of(struct node *node)
{
    return node->state;
}

static unsigned rnd(struct mem_disk *d)
{
    d->rng = d->rng * 1103515245 + 12345;
    return d->rng >> 16;
}

static void pause_some(struct mem_disk *d)
{
    unsigned n = d->pauses ? rnd(d) % (d->pauses + 1) : 0;

    if (d->slow_one_in && rnd(d) % d->slow_one_in == 0) {
        n = 300;
    }
    for (; n; n--) {
        co_pause();
    }
}

static bool fails(struct mem_disk *d)
{
    if (d->fail_at && --d->fail_at == 0) {
        return true;
    }
    return d->fail_one_in && rnd(d) % d->fail_one_in == 0;
}

static int co_mem_preadv(struct node *node, int64_t offset, int64_t bytes,
                         const struct iov *iov, unsigned flags)
{
    struct mem_disk *d = node->state;

    d->reads++;
    pause_some(d);
    iov_from_buf(iov, 0, d->data + offset, bytes);
    return 0;
}

static void record(struct mem_disk *d, bool flush, int64_t offset,
                   int64_t bytes)
{
    if (d->log) {
        struct mem_event e = {.flush = flush, .offset = offset, .bytes = bytes};
        if (!flush) {
            e.data = g_memdup2(d->data + offset, bytes);
        }
        g_array_append_val(d->log, e);
    }
}

static void record_fua(struct mem_disk *d, guint began, int64_t offset,
                       int64_t bytes, const struct iov *iov)
{
    d->fua_writes++;
    if (d->log) {
        struct mem_event e = {
            .fua = true, .began = began, .offset = offset, .bytes = bytes};
        e.data = g_malloc(bytes);
        iov_to_buf(iov, 0, e.data, bytes);
        g_array_append_val(d->log, e);
    }
}

static int co_mem_pwritev(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    struct mem_disk *d = node->state;
    guint began = d->log ? d->log->len : 0;

    d->writes++;
    pause_some(d);
    if (fails(d)) {
        return -d->fail_errno;
    }
    if (offset + bytes > MEM_DISK_MAX) {
        return -ENOSPC;
    }
    iov_to_buf(iov, 0, d->data + offset, bytes);
    record(d, false, offset, bytes);
    pause_some(d);
    if (flags & REQ_FUA) {
        record_fua(d, began, offset, bytes, iov);
    }
    return 0;
}

static int co_mem_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct mem_disk *d = node->state;

    pause_some(d);
    d->discarded += bytes;
    memset(d->data + offset, 0xdd, MIN(bytes, node->length - offset));
    record(d, false, offset, MIN(bytes, node->length - offset));
    return 0;
}

static int co_mem_flush(struct node *node)
{
    struct mem_disk *d = node->state;
    guint at = d->log ? d->log->len : 0;

    d->flushes++;
    pause_some(d);
    if (fails(d)) {
        return -d->fail_errno;
    }
    if (d->log) {
        /* Only what was complete when it began is certainly stable. */
        struct mem_event e = {.flush = true};
        g_array_insert_val(d->log, at, e);
    }
    return 0;
}

static void set_length(struct node *node, int64_t size)
{
    if (size < node->length) {
        memset(mem_disk_of(node)->data + size, 0, node->length - size);
    }
    node->length = size;
}

static bool co_mem_truncate(struct node *node, int64_t size, bool exact,
                            enum prealloc_mode prealloc, unsigned flags,
                            GError **error)
{
    struct mem_disk *d = node->state;

    if (size > MEM_DISK_MAX) {
        return error_set_errno(error, ENOSPC, "Cannot resize");
    }
    pause_some(d);
    if (d->log) {
        struct mem_event e = {.resize = true, .offset = size};
        g_array_append_val(d->log, e);
    }
    set_length(node, size);
    return true;
}

void mem_disk_replay(struct node *node, const struct mem_event *e)
{
    if (e->resize) {
        set_length(node, e->offset);
    } else if (!e->flush) {
        memcpy(mem_disk_of(node)->data + e->offset, e->data, e->bytes);
        node->length = MAX(node->length, e->offset + e->bytes);
    }
}

void mem_disk_forget(struct node *node)
{
    struct mem_disk *d = node->state;

    for (guint i = 0; d->log && i < d->log->len; i++) {
        g_free(g_array_index(d->log, struct mem_event, i).data);
    }
    if (d->log) {
        g_array_free(d->log, true);
    }
    d->log = NULL;
}

static void co_mem_close(struct node *node)
{
    struct mem_disk *d = node->state;

    munmap(d->data, MEM_DISK_MAX);
    mem_disk_forget(node);
}

static const struct block_driver driver_mem_disk = {
    .name = "mem-disk",
    .kind = DRIVER_PROTOCOL,
    .writes_fua = true,
    .state_size = sizeof(struct mem_disk),
    .co_close = co_mem_close,
    .co_preadv = co_mem_preadv,
    .co_pwritev = co_mem_pwritev,
    .co_pdiscard = co_mem_pdiscard,
    .co_flush = co_mem_flush,
    .co_truncate = co_mem_truncate,
};

struct node *co_mem_disk(const char *name)
{
    GError *error = NULL;
    struct node *node = node_new(&driver_mem_disk, name, &error);

    if (!node) {
        fail_msg("%s", error->message);
    }
    struct mem_disk *d = node->state;
    d->data = mmap(NULL, MEM_DISK_MAX, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_true(d->data != MAP_FAILED);
    d->rng = 1;
    d->fail_errno = EIO;
    node->discard = true;
    node_set_opened(node);
    return node;
}

void mem_disk_record(struct node *node)
{
    mem_disk_of(node)->log =
        g_array_new(false, false, sizeof(struct mem_event));
}

void mem_disk_save(struct node *node, const char *path)
{
    GError *error = NULL;

    if (!g_file_set_contents(path, (char *)mem_disk_of(node)->data,
                             node->length, &error)) {
        fail_msg("%s", error->message);
    }
}

void mem_disk_load(struct node *node, const char *path)
{
    g_autofree char *data = NULL;
    gsize length;

    assert_true(g_file_get_contents(path, &data, &length, NULL));
    memcpy(mem_disk_of(node)->data, data, length);
    node->length = length;
}

int run_qemu_img(char **output, const char *const *args)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autofree char *out = NULL, *err = NULL;
    int status;

    g_ptr_array_add(argv, (char *)"qemu-img");
    for (; *args; args++) {
        g_ptr_array_add(argv, (char *)*args);
    }
    g_ptr_array_add(argv, NULL);
    GError *error = NULL;
    if (!g_spawn_sync(NULL, (char **)argv->pdata, NULL, G_SPAWN_SEARCH_PATH,
                      NULL, NULL, &out, &err, &status, &error)) {
        fail_msg("%s", error->message);
    }
    if (output) {
        *output = g_strconcat(out, err, NULL);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void assert_image_clean(const char *path, bool leaks_allowed)
{
    g_autofree char *output = NULL;
    int status = run_qemu_img(
        &output, (const char *[]){"check", "-f", "qcow2", path, NULL});

    /* 3: only leaks were found. */
    if (status != 0 && !(leaks_allowed && status == 3)) {
        fail_msg("qemu-img check %s: %d\n%s", path, status, output);
    }
}
