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

enum { SECTOR = 512 };

static uint64_t now;

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

/* The number of the event, -1: nothing is recorded. */
static int64_t record(struct node *node, int64_t offset, int64_t bytes,
                      uint64_t time)
{
    struct mem_disk *d = node->state;

    if (!d->log) {
        return -1;
    }
    struct mem_event e = {.disk = node,
                          .time = time,
                          .offset = offset,
                          .bytes = bytes,
                          .data = g_memdup2(d->data + offset, bytes)};
    g_array_append_val(d->log, e);
    return d->log->len - 1;
}

static void record_fua(struct node *node, guint began, int64_t offset,
                       int64_t bytes, const struct iov *iov)
{
    struct mem_disk *d = node->state;

    d->fua_writes++;
    if (d->log) {
        struct mem_event e = {.disk = node,
                              .fua = true,
                              .began = began,
                              .offset = offset,
                              .bytes = bytes};
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
    int64_t event = record(node, offset, bytes, UINT64_MAX);
    pause_some(d);
    if (event >= 0 && d->log) {
        g_array_index(d->log, struct mem_event, event).time = ++now;
    }
    if (flags & REQ_FUA) {
        record_fua(node, began, offset, bytes, iov);
    }
    return 0;
}

static int co_mem_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct mem_disk *d = node->state;

    pause_some(d);
    d->discarded += bytes;
    memset(d->data + offset, 0xdd, MIN(bytes, node->length - offset));
    record(node, offset, MIN(bytes, node->length - offset), ++now);
    return 0;
}

static int co_mem_flush(struct node *node)
{
    struct mem_disk *d = node->state;
    uint64_t began = ++now;

    d->flushes++;
    pause_some(d);
    if (fails(d)) {
        return -d->fail_errno;
    }
    if (d->log) {
        struct mem_event e = {.disk = node, .flush = true, .time = began};
        g_array_append_val(d->log, e);
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
        struct mem_event e = {
            .disk = node, .resize = true, .time = ++now, .offset = size};
        g_array_append_val(d->log, e);
    }
    set_length(node, size);
    return true;
}

static void replay_write(struct node *node, const struct mem_event *e,
                         GRand *torn)
{
    uint8_t *data = mem_disk_of(node)->data;

    for (int64_t at = 0, n; at < e->bytes; at += n) {
        n = torn ? MIN(e->bytes - at, SECTOR - (e->offset + at) % SECTOR)
                 : e->bytes;
        if (!torn || g_rand_int_range(torn, 0, 4)) {
            memcpy(data + e->offset + at, e->data + at, n);
        }
    }
    node->length = MAX(node->length, e->offset + e->bytes);
}

void mem_disk_replay(struct node *node, const struct mem_event *e, GRand *torn)
{
    if (e->resize) {
        set_length(node, e->offset);
    } else if (!e->flush) {
        replay_write(node, e, torn);
    }
}

void assert_all_stable(struct node *node)
{
    const GArray *log = mem_disk_of(node)->log;

    assert_true(log->len > 0);
    assert_true(g_array_index(log, struct mem_event, log->len - 1).flush);
}

void mem_disk_forget(struct node *node)
{
    struct mem_disk *d = node->state;
    GArray *log = d->shares_log ? NULL : d->log;

    for (guint i = 0; log && i < log->len; i++) {
        g_free(g_array_index(log, struct mem_event, i).data);
    }
    if (log) {
        g_array_free(log, true);
    }
    d->log = NULL;
    d->shares_log = false;
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

void mem_disk_record_beside(struct node *node, struct node *other)
{
    mem_disk_of(node)->log = mem_disk_of(other)->log;
    mem_disk_of(node)->shares_log = true;
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
