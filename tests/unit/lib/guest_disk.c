/*
 * The memory driver of guest_disk.h, and a backend and a listener around it.
 */
#include "guest_disk.h"

#include <assert.h>
#include <string.h>

#include "aio/coroutine.h"
#include "block/listener.h"
#include "block/node_int.h"
#include "util/range.h"

struct guest_disk disk;

static int co_begin(enum disk_op op, int64_t offset, int64_t bytes,
                    unsigned flags)
{
    assert(range_within(offset, bytes, disk.bytes));
    disk.inside++;
    while (disk.gate) {
        co_queue_wait(&disk.at_gate);
    }
    if (disk.yield) {
        co_pause();
    }
    disk.inside--;
    disk.last_flags = flags;
    if (disk.fail_ops & op && disk.fail_count) {
        disk.fail_count--;
        return -disk.fail_errno;
    }
    return 0;
}

static int co_disk_preadv(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    int ret = co_begin(DISK_READ, offset, bytes, flags);

    disk.reads++;
    if (!ret) {
        iov_from_buf(iov, 0, disk.data + offset, bytes);
    }
    return ret;
}

static int co_disk_pwritev(struct node *node, int64_t offset, int64_t bytes,
                           const struct iov *iov, unsigned flags)
{
    int ret = co_begin(DISK_WRITE, offset, bytes, flags);

    disk.writes++;
    if (!ret) {
        iov_to_buf(iov, 0, disk.data + offset, bytes);
        disk.order[disk.orders++ % G_N_ELEMENTS(disk.order)] = offset;
    }
    return ret;
}

static int co_disk_pwrite_zeroes(struct node *node, int64_t offset,
                                 int64_t bytes, unsigned flags)
{
    int ret = co_begin(DISK_ZEROES, offset, bytes, flags);

    disk.zeroes++;
    if (!ret) {
        memset(disk.data + offset, 0, bytes);
    }
    return ret;
}

/* What a discard leaves is anybody's guess, but it shows. */
static int co_disk_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    int ret = co_begin(DISK_DISCARD, offset, bytes, 0);

    disk.discards++;
    if (!ret) {
        memset(disk.data + offset, 0xdd, bytes);
    }
    return ret;
}

static int co_disk_flush(struct node *node)
{
    int ret = co_begin(DISK_FLUSH, 0, 0, 0);

    disk.flushes++;
    return ret;
}

static const struct block_driver driver = {
    .name = "fake",
    .kind = DRIVER_PROTOCOL,
    .writes_fua = true,
    .zeroes_unmap = true,
    .co_preadv = co_disk_preadv,
    .co_pwritev = co_disk_pwritev,
    .co_pwrite_zeroes = co_disk_pwrite_zeroes,
    .co_pdiscard = co_disk_pdiscard,
    .co_flush = co_disk_flush,
};

static void on_io_error(void *opaque, const struct backend *backend,
                        bool is_read, enum block_error_action action,
                        int errnum)
{
    disk.io_errors++;
}

static void on_stop_request(void *opaque, const struct backend *backend)
{
    disk.stop_requests++;
}

static struct block_listener listener = {
    .io_error = on_io_error,
    .stop_request = on_stop_request,
};

void co_guest_disk_new(int64_t bytes, bool read_only)
{
    memset(&disk, 0, sizeof(disk));
    disk.bytes = bytes;
    disk.data = g_malloc0(bytes);
    disk.node = node_new(&driver, "disk0", NULL);
    assert(disk.node);
    disk.node->length = bytes;
    disk.node->discard = true;
    disk.node->limits.pdiscard_align = 4096;
    node_set_opened(disk.node);
    disk.backend = co_backend_new(
        "drive0", disk.node,
        PERM_CONSISTENT_READ | (read_only ? 0 : PERM_WRITE), PERM_ALL, NULL);
    assert(disk.backend);
    block_listener_add(&listener);
}

void co_guest_disk_free(void)
{
    assert(disk.backend->refs == 1 && !disk.backend->device);
    assert(!disk.inside);
    block_listener_remove(&listener);
    co_backend_unref(disk.backend);
    co_node_unref(disk.node);
    g_free(disk.data);
    memset(&disk, 0, sizeof(disk));
}

void guest_disk_fail(unsigned ops, int errnum, int count)
{
    disk.fail_ops = ops;
    disk.fail_errno = errnum;
    disk.fail_count = count;
}

void guest_disk_open_gate(void)
{
    disk.gate = false;
    co_queue_wake_all(&disk.at_gate);
}
